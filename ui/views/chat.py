"""The conversation: its turns, the answer that is arriving, and what can be done with each."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fourfold.assistant.chat.stored_message import UNREADABLE
from fourfold.assistant.grounding import BoxFormat
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import Correction
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.looking.claim import claims_read
from fourfold.ui.canvas import canvas
from fourfold.ui.state.answering import PendingTurn, StreamingAnswer, under_way
from fourfold.ui.state.asking import CHIPS, choose_other, chosen_model, send_instead, words_for
from fourfold.ui.state.corrections import record, said
from fourfold.ui.state.pictures import cut
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import (
    Turn,
    Versions,
    model_of,
    read_answer,
    stored_turns,
    writes_undeclared_boxes,
)
from fourfold.ui.state.wording import as_made
from fourfold.ui.views.answer import figures_line, show_answer, show_looked, show_other, show_steps, show_thought
from fourfold.ui.views.box_format import ask_box_format
from fourfold.ui.views.components import copy_button, foldable, icon_button, keep_in_sight, put_focus
from fourfold.ui.views.composer import show_composer
from fourfold.ui.views.connection import loading, show_connection, show_header
from fourfold.ui.views.correction_panel import show_correction_panel
from fourfold.ui.views.eyes import overlay_of, show_eyes
from fourfold.ui.views.live import show_live
from fourfold.ui.views.markdown import plain
from fourfold.ui.views.welcome import show_welcome


def show_chat(found: Session, between: DeltaGenerator, below: DeltaGenerator) -> None:
    """Draw the conversation here and what a question is made with `below`; what is under way goes between them."""
    show_header(found)
    history = found.history
    asked = under_way(found.conversation)  # before the messages: an answer stored in between is then drawn again
    versions = history.versions(found.conversation) if found.conversation else []
    turns = stored_turns(versions, found.preferences.box_formats)
    places = [turn.position for turn in turns if asked is not None and turn.asked_in.number == asked.number]
    if not places:
        asked = None  # in a version that is not shown
    before = [turn for turn in turns if not places or turn.position < places[0]]
    if not turns:
        show_welcome(found)
    judged = found.judged if before and not found.preferences.private else {}
    for turn in before:
        _show_turn(found, turns, turn, judged.get(said(turn)), last=turn is before[-1] and asked is None)
    busy = asked is not None and not asked.failed
    if asked is not None:
        turn = turns[len(before)]
        _show_question(turn.position, turn.written, turn.pictures, turn.picture)
        if not busy:
            _show_failed(found, asked, turn)
        found.asked_at = asked.began
    picture = turns[len(before) if places else -1].picture if turns else None
    if st.session_state.get("task") == Task.IDENTIFY and (found.pending or picture is not None) and not busy:
        found.pointing = True
    drawing = found.pointing and picture is not None and not busy
    arriving = partial(_show_arriving, found, asked.conversation) if asked is not None and busy else None
    show_live(arriving or loading(found), between)
    with below:
        keep_in_sight(found.conversation, found.asked_at, busy=busy, drawing=drawing)
        show_connection(found)
        show_composer(found, picture, busy=busy)


def _show_question(position: int, words: str, pictures: Sequence[Attachment], picture: Attachment | None) -> None:
    """A person's words and pictures, and what they point at on the picture that they are about."""
    made = as_made(words)
    with st.container(key=f"user-{position}"), st.chat_message("user"):
        if pictures:
            with st.container(horizontal=True, key=f"pictures-{position}"):
                for number, own in enumerate(pictures, 1):
                    wide = 260 if len(pictures) == 1 else 160
                    with st.container(width="content", gap="small"):
                        alt = f"Picture {number} of the question"
                        try:
                            canvas(own, key=f"asked-{position}-{number}", mode="still", alt=alt, wide=wide)
                        except UserError:
                            st.caption(":material/broken_image: It is stored but cannot be shown any more.")
                        if len(pictures) > 1:
                            st.caption(f"Picture {number}")
        badge = f":primary-badge[{plain(CHIPS[made.task].label)}] " if made.task is not None else ""
        foldable(made.words, before=badge)
        if made.region is not None and picture is not None:
            st.image(cut(picture, made.region), width=120, alt="The part of the picture that is pointed at")


def _show_turn(found: Session, turns: list[Turn], turn: Turn, judgement: Correction | None, *, last: bool) -> None:
    if found.editing == turn.position:
        _edit_question(found, turn)
    else:
        _show_question(turn.position, turn.written, turn.pictures, turn.picture)
        if turn.trouble.get(UNREADABLE) and turn.answer is not None:
            _show_trouble(turn.trouble)
        with st.container(key=f"ask-acts-{turn.position}", horizontal=True, horizontal_alignment="right"):
            _choose_version(found, turn.asked_in, "question", f"asked-{turn.position}")
            if icon_button("Edit the question", ":material/edit:", f"edit-{turn.position}"):
                found.leave()
                found.editing = turn.position
                st.rerun()
    if turn.answer is None:
        _show_silent(found, turn)
        return
    figures = turn.figures
    other = figures.get("other")
    key = f"{found.conversation}-{turn.position}"
    with st.container(key=f"assistant-{turn.position}"), st.chat_message("assistant"):
        columns = list(st.columns(2, gap="large")) if other else [st.container()]
        if other and other.get("first"):
            columns.reverse()
        with columns[0]:
            if other:
                st.caption(f"**{plain(figures.get('model', ''))}**")
            show_thought(figures.get("thought"))
            claims = claims_read(figures.get("claims"))
            over = overlay_of(found, turn, claims)
            show_answer(turn.grounded, turn.picture, turn.words, key=key, claims=claims, overlay=over)
            if writes_undeclared_boxes(turn.said, model_of(figures)):
                ask_box_format(found, model_of(figures), key=str(turn.position))
            if figures.get("corrected"):
                st.caption(":material/edit_note: Corrected by you")
            if figures.get("remembered"):
                st.caption(":material/history_edu: Remembered from your correction")
            if figures.get("left_out"):
                number = figures["left_out"]
                pictures = "picture was" if number == 1 else f"{number} pictures were"
                st.caption(f"The oldest {pictures} left out: the model does not take so many at once.")
            if figures.get(UNREADABLE):
                _show_trouble(figures)
            if figures.get("error"):
                st.error(plain(figures["error"]), icon=":material/error:")
            if turn.trouble and last:
                st.caption("Another answer was asked for:")
                _show_trouble(turn.trouble)
            if figures.get("looked"):
                show_looked(figures["looked"], turn.picture, turn.words, key=key)
            _acts(found, turns, turn, judgement, last=last)
        if other:
            with columns[1]:
                if show_other(other, turn.picture, turn.words, turn.declared, key=f"{key}-other"):
                    choose_other(found, turn)
                    st.rerun()
    if found.correcting == turn.position:
        show_correction_panel(found, turns, turn)


def _acts(found: Session, turns: list[Turn], turn: Turn, judgement: Correction | None, *, last: bool) -> None:
    at = turn.position
    with st.container(key=f"acts-{at}", horizontal=True, gap="small", vertical_alignment="center"):
        if not found.preferences.private and turn.picture is not None:
            verdict = judgement.verdict if judgement is not None else None
            corrected = bool(turn.figures.get("corrected"))
            if not corrected and icon_button("Good answer", ":material/thumb_up:", f"up-{at}", on=verdict == "up"):
                if judgement is not None:
                    found.forget(judgement.id)
                if verdict != "up":
                    praise = record(turns, turn, verdict="up", consent=found.preferences.consent, remember=False)
                    found.store.add(praise, turn.picture)
                    found.notices.append(_thanks(found.preferences.consent))
                st.rerun()
            label = "Change the correction" if corrected else "Correct this answer"
            if icon_button(label, ":material/thumb_down:", f"down-{at}", on=verdict == "down"):
                opened = found.correcting == at
                found.leave()
                found.correcting = None if opened else at
                st.rerun()
            if corrected and icon_button("Take the correction back", ":material/undo:", f"uncorrect-{at}"):
                _take_back(found, turn.figures["corrected"])
        show_eyes(found, turn, claims_read(turn.figures.get("claims")))
        _choose_version(found, turn.answered_in, "answer", f"answered-{at}")
        copy_button(turn.grounded.plain or turn.said, key=f"copy-{at}")
        if last and icon_button("Another answer", ":material/refresh:", f"regenerate-{at}"):
            _ask_instead(found, turn, otherwise=True)
        if line := figures_line(turn.figures):
            st.caption(line)


def _take_back(found: Session, id: str) -> None:
    found.leave()
    try:
        if still := found.forget(id):
            found.notices.append(f"Taken back. The adapter {still} has learnt it: train again, or roll back.")
    except UserError:  # it was forgotten in the terminal
        found.bring_back(id)
    st.rerun()


def _thanks(consent: bool) -> str:
    return "Kept." if consent else "Kept. No adapter is trained with it: the tick for that is off under Privacy."


def _edit_question(found: Session, turn: Turn) -> None:
    with st.container(key=f"editing-{turn.position}", border=True):
        put_focus(f".st-key-editing-{turn.position} textarea", str(turn.position))
        with st.form("edit", border=False):
            made = as_made(turn.words)
            words = st.text_area("Your question", made.words, key=f"edited-{turn.position}")
            sends = st.form_submit_button(
                "Send", key="edit-send", type="primary", icon=":material/send:", help="Ctrl+Enter"
            )
        if st.button("Cancel", key="edit-cancel", shortcut="Escape"):
            found.editing = None
            st.rerun()
        if sends and (words.strip() or made.words == ""):
            _ask_instead(found, turn, words.strip())
        st.caption("It becomes another version; this one stays, with what followed it.")


def _show_arriving(found: Session, conversation: str) -> None:
    """The answers as they come."""
    asked = under_way(conversation)
    if asked is None or asked.done:
        st.rerun()
    with st.container(key="assistant-arriving"), st.chat_message("assistant"):
        columns = st.columns(2, gap="large") if len(asked.answers) > 1 else [st.container()]
        for number, (answer, column) in enumerate(zip(asked.answers, columns, strict=True)):
            with column:
                if len(asked.answers) > 1:
                    st.caption(f"**{plain(answer.settings.model)}**")
                _show_so_far(answer, asked, found.preferences.box_formats, key=f"arriving-{number}")
    if st.button("Stop", icon=":material/stop_circle:", key="stop", shortcut="Escape"):
        asked.stop()


def _show_so_far(answer: StreamingAnswer, asked: PendingTurn, declared: Mapping[str, BoxFormat], *, key: str) -> None:
    picture, question = asked.picture, asked.words
    show_thought(answer.exchange.answer.thought, running=not answer.text)
    if not answer.text and not answer.done:
        st.markdown(f":small[:gray[Looking at the picture… {answer.seconds:.0f} s]]" if picture else ":gray[Thinking…]")
    else:
        boxes = [step.box for step in answer.steps if step.box is not None]
        places = list(dict.fromkeys(boxes))
        model = {"model": answer.settings.model, "adapts": answer.settings.adapts}
        read = read_answer(answer.text, model, picture, declared, arriving=not answer.done)
        show_answer(read, picture, question, key=key, looked_at=places, arriving=not answer.done)
    if answer.steps:
        show_steps(answer.steps, running=not answer.done)
    if answer.error:
        st.error(plain(answer.error))


def _show_failed(found: Session, asked: PendingTurn, turn: Turn) -> None:
    """An answer that could not be kept."""
    with st.container(key="assistant-failed"), st.chat_message("assistant"):
        answer = asked.answers[0]
        if answer.text:
            show_answer(answer.so_far, asked.picture, asked.words, key="failed")
        st.error(plain(asked.trouble or answer.error or ""), icon=":material/error:")
        _ask_again(found, turn, "retry")


def _show_silent(found: Session, turn: Turn) -> None:
    """A question that has no answer, and why."""
    trouble = turn.trouble
    with st.container(key=f"assistant-{turn.position}"), st.chat_message("assistant"):
        show_thought(trouble.get("thought"))
        _show_trouble(trouble)
        _ask_again(found, turn, f"again-{turn.position}")


def _show_trouble(trouble: dict[str, Any]) -> None:
    if trouble.get(UNREADABLE):
        st.warning("This message is stored but cannot be read any more.", icon=":material/broken_image:")
    elif trouble.get("error"):
        st.error(plain(trouble["error"]), icon=":material/error:")
    elif trouble.get("stopped"):
        st.info("Stopped before the answer began.", icon=":material/stop_circle:")
    elif trouble.get("empty"):
        st.warning("The model gave an empty answer.", icon=":material/help:")
    else:
        st.info("This question has no answer.", icon=":material/help:")


def _ask_again(found: Session, turn: Turn, key: str) -> None:
    if st.button("Try again", icon=":material/refresh:", key=key, type="primary"):
        _ask_instead(found, turn)


def _ask_instead(found: Session, turn: Turn, words: str | None = None, *, otherwise: bool = False) -> None:
    """Ask the question of a turn again, or with other words, put as its task is put to the model of now."""
    made = as_made(turn.words)
    try:
        same = words is None or words == made.words
        sent = turn.words if same else words_for(made.task, words or "", made.region, chosen_model(found))
        send_instead(found, turn, sent, otherwise=otherwise)
    except UserError as error:
        found.notices.append(plain(str(error)))
    st.rerun()


def _choose_version(found: Session, versions: Versions, what: str, key: str) -> None:
    """‹ 2 / 3 ›, where there is more than one."""
    if len(versions.numbers) < 2:
        return
    step = 0
    with st.container(key=f"versions-{key}", horizontal=True, gap=None, vertical_alignment="center", width="content"):
        for label, icon, by in (("Earlier", ":material/chevron_left:", -1), ("Later", ":material/chevron_right:", 1)):
            if by == 1:
                st.caption(f"{versions.at + 1} / {len(versions.numbers)}")
            there = 0 <= versions.at + by < len(versions.numbers)
            text = f"{label} version of the {what}"
            if st.button(text, icon=icon, key=f"{label.lower()}-{key}", help=text, type="tertiary", disabled=not there):
                step = by
    if step:
        assert found.conversation is not None
        found.leave()
        found.history.show(found.conversation, versions.numbers[versions.at + step])
        st.rerun()
