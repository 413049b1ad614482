"""Where a question is made: pictures that wait, a rectangle on them, the task, the words."""

import streamlit as st

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.ui.canvas import canvas
from fourfold.ui.state.asking import ASK, CHIPS, chip_task, send, words_for
from fourfold.ui.state.boxes import BoxAnnotation
from fourfold.ui.state.pictures import TYPES, shown
from fourfold.ui.state.session import Session
from fourfold.ui.views.components import icon_button
from fourfold.ui.views.concepts import show_once
from fourfold.ui.views.markdown import answer_markdown
from fourfold.ui.views.welcome import add_pictures

_MOST = 8  # pictures of one question


def show_composer(found: Session, picture: Attachment | None, *, busy: bool) -> None:
    """Draw it. `picture` is the conversation's latest, and `busy` whether an answer is on its way."""
    on = found.pending[-1] if found.pending else picture
    if found.pending:
        _show_pending(found)
    elif found.pointing and picture is not None and not busy:
        _show_pointing(found, picture)
    with st.bottom:
        _show_chips(found, on, busy=busy)
        name = st.session_state.get("task") or ASK
        ready = bool(found.models) and not busy
        said = st.chat_input(
            CHIPS[name].hint if on is not None else "Add a picture, or just ask",
            key="composer",
            accept_file="multiple",
            file_type=list(TYPES),
            disabled=not ready,
        )
    if said is not None:
        files = [(file.name, file.getvalue()) for file in said.files]
        region = found.region if not files else None
        add_pictures(found, files)
        _submit(found, chip_task(name), said.text or "", region)


def _submit(found: Session, task: Task | None, text: str, region: Box | None) -> None:
    if not text.strip() and (task is None or CHIPS[task].button is None):
        st.rerun()  # pictures without words: they wait for them
    try:
        send(found, words_for(task, text, region), found.pending[-_MOST:])
    except UserError as error:
        found.notices.append(answer_markdown(str(error)))
    st.rerun()


def _show_pending(found: Session) -> None:
    """The pictures of the next question; the last one can be drawn on."""
    with st.container(key="pending", border=True):
        if len(found.pending) > 1:
            with st.container(horizontal=True, key="pending-others"):
                for number, data in enumerate(found.pending[:-1]):
                    with st.container(width=110, key=f"pending-{number}"):
                        st.image(shown(data, 320).uri, width=100, alt=f"Picture {number + 1}")
                        if st.button("Remove", key=f"remove-{number}", type="tertiary", icon=":material/close:"):
                            del found.pending[number]
                            st.rerun()
        _draw_region(found, found.pending[-1])
        if st.button("Remove the picture", key="remove-last", type="tertiary", icon=":material/close:"):
            found.pending.pop()
            found.region = None
            st.rerun()


def _show_pointing(found: Session, picture: Attachment) -> None:
    with st.container(key="pointing", border=True):
        _draw_region(found, picture)
        st.button("Close", key="point-close", type="tertiary", icon=":material/close:", on_click=_close, args=(found,))


def _close(found: Session) -> None:
    found.pointing, found.region = False, None
    st.session_state.task = ASK  # before the chips are drawn; afterwards Streamlit would refuse it


def _draw_region(found: Session, picture: Attachment) -> None:
    marks = [BoxAnnotation(found.region)] if found.region is not None else []
    drawn = canvas(
        picture,
        key="region",
        mode="region",
        marks=marks,
        revision=picture.sha256,
        alt="The picture to ask about",
        tall=False,  # what can be done with the rectangle is to be seen without scrolling
    )
    region = drawn[0].box if drawn else None
    if region != found.region:
        found.region = region
    if region is None:
        return
    with st.container(horizontal=True, vertical_alignment="bottom", key="region-acts"):
        if st.button("What is this?", key="what-is-this", icon=":material/help:", type="primary"):
            _submit(found, Task.IDENTIFY, "", region)
        if not found.preferences.private:
            show_once(found, picture, region)


def _show_chips(found: Session, on: Attachment | None, *, busy: bool) -> None:
    with st.container(key="chips", horizontal=True, vertical_alignment="center", gap="small"):
        if on is not None:
            name = st.pills(
                "Task",
                list(CHIPS),
                key="task",
                required=True,
                default=ASK,
                format_func=lambda name: f"{CHIPS[name].icon} {CHIPS[name].label}",
                label_visibility="collapsed",
            )
            task, chip = chip_task(name), CHIPS[name]
            drawn = task is not Task.IDENTIFY or found.region is not None
            if chip.button and drawn and not busy and st.button(chip.button, key="ask-chip", type="primary"):
                _submit(found, task, "", found.region)
            idle = not (found.pending or found.pointing or busy)
            if idle and icon_button("Point at it", ":material/draw:", "point"):
                found.pointing = True
                st.rerun()
        if not busy and icon_button("Take a photo", ":material/photo_camera:", "camera"):
            _take_photo(found)


@st.dialog("Take a photo")
def _take_photo(found: Session) -> None:
    photo = st.camera_input("Take a photo", key=f"photo-{found.uploads}", label_visibility="collapsed")
    if photo is not None:
        add_pictures(found, [("the photo", photo.getvalue())])
        st.rerun()
