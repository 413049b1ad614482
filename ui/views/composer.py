"""Where a question is made: pictures that wait, a rectangle on them, the task, the words."""

from typing import NoReturn

import streamlit as st

from fourfold.assistant.chat.picture_numbers import named_pictures
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.ui.canvas import canvas
from fourfold.ui.state.asking import ASK, CHIPS, chip_task, chosen_model, knows_tags, send, words_for
from fourfold.ui.state.boxes import BoxAnnotation
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.pictures import TYPES
from fourfold.ui.state.session import Session
from fourfold.ui.views.components import icon_button
from fourfold.ui.views.concepts import show_once
from fourfold.ui.views.markdown import plain
from fourfold.ui.views.pictures import (
    add_pictures,
    looked_at,
    remove,
    show_documents,
    show_door,
    show_strip,
    take_photo,
)

_POOR = ":material/warning:"  # in place of the icon of a task that the model was measured to be poor at


def show_composer(found: Session, picture: Attachment | None, *, busy: bool) -> None:
    """Draw it. `picture` is the conversation's latest, and `busy` whether an answer is on its way."""
    model = chosen_model(found)
    on = looked_at(found) or picture
    show_documents(found)
    for complaint in found.refused:
        st.warning(plain(complaint), icon=":material/broken_image:")
    if found.pending:
        _show_pending(found, picture, model)
    elif found.pointing and picture is not None and not busy:
        _show_pointing(found, picture)
    with st.bottom:
        name = _show_chips(found, picture, on, model, busy=busy)
        show_door(found, busy=busy, task=name)
        _ask_what_waited(found, picture, name, busy=busy)
        if found.unsent is not None:
            st.session_state.composer, found.unsent = found.unsent, None
        said = st.chat_input(
            CHIPS[name].hint if on is not None else "Add a picture, or just ask",
            key="composer",
            accept_file="multiple",
            file_type=list(TYPES),
            disabled=not found.models,
        )
    if said is not None:
        if said.files:
            add_pictures(found, [(file.name, file.getvalue()) for file in said.files])
        if busy:
            _let_wait(found, said.text or "")
            st.rerun()
        _submit(found, picture, chip_task(name), said.text or "", found.region)


def _let_wait(found: Session, words: str) -> None:
    if found.waiting is not None:
        found.notices.append("One question waits already.")
        found.unsent = words
    elif words and found.conversation is not None:
        found.waiting = found.conversation, words


def _ask_what_waited(found: Session, picture: Attachment | None, name: str, *, busy: bool) -> None:
    """Words that were sent too early: they are asked once the answer is complete; until then they can be taken back."""
    if found.waiting is None or found.waiting[0] != found.conversation:
        return
    words = found.waiting[1]
    if not busy:
        found.waiting = None
        _submit(found, picture, chip_task(name), words, found.region)
    with st.container(horizontal=True, vertical_alignment="center", key="waiting"):
        st.caption(f":material/schedule: Asked when this answer is complete: {plain(words)}")
        if st.button("Take it back", key="take-back", type="tertiary"):
            found.unsent, found.waiting = words, None
            st.rerun()


def _submit(found: Session, picture: Attachment | None, task: Task | None, text: str, region: Box | None) -> NoReturn:
    """Ask it; what cannot be asked is said, and its words stay in the input."""
    if not text.strip() and (task is None or CHIPS[task].button is None):
        st.rerun()  # pictures without words: they wait for them
    model = chosen_model(found)
    try:
        pictures, sent = _given(found, picture, model, text, region)
        album = found.pending if len(pictures) < len(found.pending) else []
        chosen = found.chosen
        send(found, words_for(task, sent, region, model), pictures, words_for(task, text, region, model))
        found.pending, found.chosen = album, chosen
        st.session_state.pop("task", None)  # a chip is for one question
    except UserError as error:
        found.notices.append(plain(str(error)))
        found.unsent = text
    st.rerun()


def _given(
    found: Session, picture: Attachment | None, model: Served | None, text: str, region: Box | None
) -> tuple[list[Attachment], str]:
    """The pictures that go with a question, and its words without the number of the only one.

    To a model that looks at one picture at a time goes the one that is looked at, or that the words name by its number;
    nothing goes where the conversation's latest picture is that one already.

    Raises:
        UserError: the words name several.
    """
    if len(found.pending) < 2 or model is None or not (region is not None or knows_tags(model)):
        return found.pending, text
    there = range(len(found.pending))
    named = [one for one in named_pictures(text, len(there)) if one.index in there]
    if len({one.index for one in named}) > 1:
        raise UserError(f"{model.name} looks at one picture at a time: ask about one, then about the other.")
    if named and region is None:
        found.chosen = named[0].index
        for place in reversed(named):
            text = f"{text[: place.start]}the picture{text[place.end :]}"
    one = looked_at(found)
    return [] if one is None or _same(one, picture) else [one], text


def _same(one: Attachment, picture: Attachment | None) -> bool:
    return picture is not None and one.content == picture.content


def _show_pending(found: Session, picture: Attachment | None, model: Served | None) -> None:
    """The pictures of the next question; the one that is looked at can be drawn on."""
    one = looked_at(found)
    assert one is not None
    with st.container(key="pending", border=True):
        several = len(found.pending) > 1
        if several:
            show_strip(found)
            st.caption(_told_of_several(found, model))
        asked = several and _same(one, picture)  # it stands above, with its answer
        if not asked:
            _draw_region(found, one, picture)
        with st.container(horizontal=True):
            label = "Remove all pictures" if several else "Remove the picture"
            if st.button(label, key="remove-last", type="tertiary", icon=":material/close:"):
                while found.pending:
                    remove(found, 0)
                st.rerun()


def _told_of_several(found: Session, model: Served | None) -> str:
    number = found.chosen % len(found.pending) + 1
    if model is not None and knows_tags(model):
        return (
            f"{plain(model.name)} looks at one picture at a time: **picture {number}** is asked about. Press another, "
            "or say “picture 1” in the question."
        )
    if found.region is not None:
        return f"With a rectangle, **picture {number}** alone goes with the question."
    return f"All {len(found.pending)} pictures go with the question, in this order."


def _show_pointing(found: Session, picture: Attachment) -> None:
    with st.container(key="pointing", border=True):
        _draw_region(found, picture, picture)
        st.button("Close", key="point-close", type="tertiary", icon=":material/close:", on_click=_close, args=(found,))


def _close(found: Session) -> None:
    found.pointing, found.region = False, None
    st.session_state.task = ASK  # before the chips are drawn; afterwards Streamlit would refuse it


def _draw_region(found: Session, on: Attachment, picture: Attachment | None) -> None:
    marks = [BoxAnnotation(found.region)] if found.region is not None else []
    drawn = canvas(
        on,
        key="region",
        mode="region",
        marks=marks,
        revision=f"{on.sha256}-{found.drawings}",
        alt="The picture to ask about",
        tall=False,  # what can be done with the rectangle is to be seen without scrolling
        action="What is this?",
        on_action=lambda: setattr(found, "wants_name", True),
    )
    region = drawn[0].box if drawn else None
    if region != found.region:
        found.region = region
    wants_name, found.wants_name = found.wants_name, False
    if region is None:
        return
    if wants_name:
        _submit(found, picture, Task.IDENTIFY, "", region)
    if not found.preferences.private:
        show_once(found, on, region)


def _show_chips(
    found: Session, picture: Attachment | None, on: Attachment | None, model: Served | None, *, busy: bool
) -> str:
    """The tasks; the chosen one's name. Without a picture there is nothing to choose from."""
    name = ASK
    card = model.card if model is not None else None
    with st.container(key="chips", horizontal=True, vertical_alignment="center", gap="small"):
        if on is not None:
            known = {task: card.tasks.get(Task(task)) if card and task != ASK else None for task in CHIPS}
            if "task" not in st.session_state:
                st.session_state.task = ASK

            def label(task: str) -> str:
                told = known[task]
                icon = _POOR if told is not None and told.level == "poor" else CHIPS[task].icon
                return f"{icon} {CHIPS[task].label}"

            chosen = st.pills(
                "Task", list(CHIPS), key="task", required=True, format_func=label, label_visibility="collapsed"
            )
            name = chosen or ASK
            task, chip = chip_task(name), CHIPS[name]
            drawn = task is not Task.IDENTIFY or found.region is not None
            if chip.button and drawn and not busy and st.button(chip.button, key="ask-chip", type="primary"):
                _submit(found, picture, task, "", found.region)
            idle = not (found.pending or found.pointing or busy)
            if idle and icon_button("Point at it", ":material/draw:", "point"):
                found.pointing = True
                st.rerun()
        if icon_button("Take a photo", ":material/photo_camera:", "camera"):
            take_photo(found)
    if on is not None and (told := known[name]) is not None and told.level != "good":
        st.caption(f":material/info: {plain(CHIPS[name].label)}: {plain(told.note)}")
    return name
