"""The conversation: its turns, the answer that is arriving, and what can be done with each."""

from collections.abc import Sequence

import streamlit as st

from fourfold.assistant.grounding import parse
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import Correction
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.looking.claim import claims_read
from fourfold.ui.state.answering import PendingTurn, StreamingAnswer, under_way
from fourfold.ui.state.asking import choose_other, retry, send_instead
from fourfold.ui.state.corrections import record, said
from fourfold.ui.state.pictures import cut, shown
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import Turn, region_of, split_tag, turns_of
from fourfold.ui.views.answer import figures_line, show_answer, show_looked, show_other, show_steps
from fourfold.ui.views.components import copy_button, icon_button, keep_in_sight
from fourfold.ui.views.composer import show_composer
from fourfold.ui.views.connection import show_connection, show_header
from fourfold.ui.views.correction_panel import show_correction_panel
from fourfold.ui.views.eyes import overlay_of, show_eyes
from fourfold.ui.views.markdown import answer_markdown, plain
from fourfold.ui.views.welcome import show_welcome


def show_chat(found: Session) -> None:
    show_header(found)
    history = found.history
    asked = under_way(found.conversation)  # before the messages: an answer stored in between is then drawn again
    messages = history.messages(found.conversation) if found.conversation else []
    turns = turns_of(messages)
    before = [turn for turn in turns if asked is None or turn.position < asked.keep]
    if not turns and asked is None:
        show_welcome(found)
    judged = found.judged if before and not found.preferences.private else {}
    for turn in before:
        _show_turn(found, turns, turn, judged.get(said(turn)), last=turn is before[-1] and asked is None)
    busy = asked is not None and not asked.failed
    if asked is not None:
        _show_question(asked.keep, asked.words, asked.pictures, asked.picture)
        if busy:
            _show_arriving(asked.conversation)  # where it was stored since, this draws the page again
        else:
            _show_failed(found, asked)
    if asked is not None:
        found.asked_at = asked.began
    picture = before[-1].picture if before else None
    if st.session_state.get("task") == Task.IDENTIFY and (found.pending or picture is not None) and not busy:
        found.pointing = True
    drawing = found.pointing and picture is not None and not busy
    keep_in_sight(found.conversation, found.asked_at, busy=busy, drawing=drawing)
    show_connection(found)
    show_composer(found, picture, busy=busy)


def _show_question(position: int, words: str, pictures: Sequence[Attachment], picture: Attachment | None) -> None:
    """A person's words and pictures, and what they point at on the picture that they are about."""
    task, words = split_tag(words)
    grounded = parse(words)
    with st.container(key=f"user-{position}"), st.chat_message("user"):
        if pictures:
            with st.container(horizontal=True, key=f"pictures-{position}"):
                for number, own in enumerate(pictures, 1):
                    wide = 260 if len(pictures) == 1 else 160
                    st.image(shown(own, 640).uri, width=wide, alt=f"Picture {number} of the question")
        badge = f":primary-badge[{task.value}] " if task is not None else ""
        st.markdown(badge + plain(grounded.plain))
        region = region_of(words)
        if region is not None and picture is not None:
            st.image(cut(picture, region), width=120, alt="The part of the picture that is pointed at")


def _show_turn(found: Session, turns: list[Turn], turn: Turn, judgement: Correction | None, *, last: bool) -> None:
    if found.editing == turn.position:
        _edit_question(found, turn)
    else:
        _show_question(turn.position, turn.words, turn.pictures, turn.picture)
        with st.container(key=f"ask-acts-{turn.position}", horizontal=True, horizontal_alignment="right"):
            if icon_button("Edit the question", ":material/edit:", f"edit-{turn.position}"):
                found.leave()
                found.editing = turn.position
                st.rerun()
    if turn.answer is None:
        st.info("This question has no answer.")
        if st.button("Ask again", icon=":material/refresh:", key=f"again-{turn.position}"):
            send_instead(found, turn, turn.words)
            st.rerun()
        return
    figures = turn.figures
    other = figures.get("other")
    key = f"{found.conversation}-{turn.position}"
    with st.container(key=f"assistant-{turn.position}"), st.chat_message("assistant"):
        columns = st.columns(2, gap="large") if other else [st.container()]
        with columns[0]:
            if other:
                st.caption(f"**{plain(figures.get('model', ''))}**")
            claims = claims_read(figures.get("claims"))
            over = overlay_of(found, turn, claims)
            show_answer(turn.grounded, turn.picture, turn.words, key=key, claims=claims, overlay=over)
            if figures.get("remembered"):
                st.caption(":material/history_edu: Remembered from your correction")
            if figures.get("looked"):
                show_looked(figures["looked"], turn.picture, turn.words, key=key)
            _acts(found, turns, turn, judgement, last=last)
        if other:
            with columns[1]:
                if show_other(other, turn.picture, turn.words, key=f"{key}-other"):
                    choose_other(found, turn)
                    st.rerun()
    if found.correcting == turn.position:
        show_correction_panel(found, turns, turn)


def _acts(found: Session, turns: list[Turn], turn: Turn, judgement: Correction | None, *, last: bool) -> None:
    at = turn.position
    with st.container(key=f"acts-{at}", horizontal=True, gap="small", vertical_alignment="center"):
        if not found.preferences.private and turn.picture is not None:
            verdict = judgement.verdict if judgement is not None else None
            if icon_button("Good answer", ":material/thumb_up:", f"up-{at}", on=verdict == "up"):
                if judgement is not None:
                    found.forget(judgement.id)
                if verdict != "up":
                    praise = record(turns, turn, verdict="up", consent=found.preferences.consent)
                    found.store.add(praise, turn.picture)
                    found.notices.append(_thanks(found.preferences.consent))
                st.rerun()
            if icon_button("Correct this answer", ":material/thumb_down:", f"down-{at}", on=verdict == "down"):
                opened = found.correcting == at
                found.leave()
                found.correcting = None if opened else at
                st.rerun()
        show_eyes(found, turn, claims_read(turn.figures.get("claims")))
        copy_button(turn.grounded.plain or turn.said, key=f"copy-{at}")
        if last and icon_button("Another answer", ":material/refresh:", f"regenerate-{at}"):
            send_instead(found, turn, turn.words, otherwise=True)
            st.rerun()
        if line := figures_line(turn.figures):
            st.caption(line)


def _thanks(consent: bool) -> str:
    return "Kept." if consent else "Kept. It will not be learnt from: the tick for that is off under Privacy."


def _edit_question(found: Session, turn: Turn) -> None:
    with st.container(key=f"editing-{turn.position}", border=True):
        words = st.text_area("Your question", turn.words, key=f"edited-{turn.position}")
        with st.container(horizontal=True):
            if st.button("Send", type="primary", key="edit-send", icon=":material/send:") and words.strip():
                send_instead(found, turn, words.strip())
                st.rerun()
            if st.button("Cancel", key="edit-cancel"):
                found.editing = None
                st.rerun()
        st.caption("What followed this question is replaced by the new answer.")


@st.fragment(run_every=0.3)
def _show_arriving(conversation: str) -> None:
    """The answers as they come; runs by itself, so that nothing else of the page is drawn again."""
    asked = under_way(conversation)
    if asked is None or asked.done:
        st.rerun()
    with st.container(key="assistant-arriving"), st.chat_message("assistant"):
        columns = st.columns(2, gap="large") if len(asked.answers) > 1 else [st.container()]
        for number, (answer, column) in enumerate(zip(asked.answers, columns, strict=True)):
            with column:
                if len(asked.answers) > 1:
                    st.caption(f"**{plain(answer.settings.model)}**")
                _show_so_far(answer, asked.picture, asked.words, key=f"arriving-{number}")
    if st.button("Stop", icon=":material/stop_circle:", key="stop", shortcut="Escape"):
        asked.stop()


def _show_so_far(answer: StreamingAnswer, picture: Attachment | None, question: str, *, key: str) -> None:
    if not answer.text and not answer.done:
        st.markdown(f":small[:gray[Looking at the picture… {answer.seconds:.0f} s]]" if picture else ":gray[Thinking…]")
    else:
        boxes = [step.box for step in answer.steps if step.box is not None]
        places = list(dict.fromkeys(boxes))
        show_answer(answer.so_far, picture, question, key=key, looked_at=places, arriving=not answer.done)
    if answer.steps:
        show_steps(answer.steps, running=not answer.done)
    if answer.error:
        st.error(answer_markdown(answer.error))


def _show_failed(found: Session, asked: PendingTurn) -> None:
    with st.container(key="assistant-failed"), st.chat_message("assistant"):
        answer = asked.answers[0]
        if answer.text:
            show_answer(answer.so_far, asked.picture, asked.words, key="failed")
        if asked.trouble:
            st.error(answer_markdown(asked.trouble), icon=":material/error:")
        elif answer.error:
            st.error(answer_markdown(answer.error), icon=":material/error:")
        elif answer.stopped:
            st.info("Stopped before the answer began.", icon=":material/stop_circle:")
        else:
            st.warning("The model gave an empty answer.", icon=":material/help:")
        if st.button("Try again", icon=":material/refresh:", key="retry", type="primary"):
            try:
                retry(found, asked)
                st.rerun()
            except UserError as error:
                st.error(answer_markdown(str(error)))
