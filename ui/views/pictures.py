"""Pictures that wait for a question: how they come in, which of them is looked at, pages of documents."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import streamlit as st
from PIL import Image
from streamlit.runtime.uploaded_file_manager import UploadedFile

from fourfold.assistant.images import LIMITS, Attachment, Document
from fourfold.prompts.errors import UserError
from fourfold.ui.state.pictures import MOST, shown, take_all
from fourfold.ui.state.session import Session
from fourfold.ui.views.components import icon_button
from fourfold.ui.views.markdown import plain

_PAGES = 12  # of a document that are shown at once

# Read here because Streamlit finds the files only of components that it was told of at build time.
_ears: Any = st.components.v2.component(
    "fourfold.composer", js=(Path(__file__).parents[1] / "composer.js").read_text("utf-8")
)


def add_pictures(found: Session, files: list[tuple[str, bytes]]) -> None:
    """Take files in for the next question; what is none, and what does not fit into a question, is named."""
    taken = take_all(files)
    room = max(MOST - len(found.pending), 0)
    found.pending += taken.pictures[:room]
    found.documents += taken.documents
    found.refused = taken.complaints
    if left := taken.pictures[room:]:
        names = ", ".join(picture.name for picture in left)
        found.notices.append(plain(f"{MOST} pictures fit into one question. Left out: {names}."))
    found.region, found.chosen = None, -1
    found.uploads += 1


def choose_files(key: str) -> list[UploadedFile]:
    """Streamlit's uploader: the files that were chosen or dropped on it."""
    return st.file_uploader(
        "Add pictures",
        type=None,  # what cannot be read is said in a sentence
        accept_multiple_files=True,
        key=key,
        label_visibility="collapsed",
    )


def show_door(found: Session, *, busy: bool, task: str) -> None:
    """The one way in for pictures that are pasted, dropped anywhere, or added by the "+"; nothing of it is seen.

    Where the first screen shows its uploader, they go through that one.
    """
    files: list[UploadedFile] = []
    with st.container(key="door"):
        if found.conversation is not None or found.pending or found.documents:
            files = choose_files(f"door-{found.uploads}")
        refused = _ears(
            key="ears",
            data={
                "largest": LIMITS.bytes,
                "uploads": found.uploads,
                "conversation": found.conversation or "",
                "busy": busy,
                "task": task,  # whoever has chosen one goes on with its words
                "keep": not found.preferences.private,
            },
            on_refused_change=_nothing,
        ).refused
    for name in refused or ():
        found.notices.append(plain(f"{name} is larger than {LIMITS.bytes // 2**20} MiB; make it smaller."))
    if files:
        add_pictures(found, [(file.name, file.getvalue()) for file in files])
    if files or refused:
        st.rerun()


def _nothing() -> None:
    return None


def show_strip(found: Session) -> None:
    """Several pictures side by side, each with its number; the one that is looked at is marked."""
    chosen = found.chosen % len(found.pending)
    with st.container(horizontal=True, vertical_alignment="bottom", key="pending-strip", gap="small"):
        for number, picture in enumerate(found.pending):
            with st.container(width=112, key=f"pending-{number}", gap="small"):
                st.image(shown(picture, 320).uri, width=104, alt=f"Picture {number + 1}: {picture.name}")
                with st.container(horizontal=True, gap=None, vertical_alignment="center"):
                    looked_at = number == chosen
                    kind: Literal["secondary", "tertiary"] = "secondary" if looked_at else "tertiary"
                    if st.button(f"Picture {number + 1}", key=f"choose-{number}", type=kind) and not looked_at:
                        found.chosen, found.region = number, None
                        st.rerun()
                    if icon_button(f"Remove picture {number + 1}", ":material/close:", f"remove-picture-{number}"):
                        remove(found, number)
                        st.rerun()


def remove(found: Session, number: int) -> None:
    """Take a picture out of those that wait."""
    del found.pending[number]
    found.refused = []
    found.region, found.chosen = None, -1


def show_documents(found: Session) -> None:
    """Pages to choose from, each a picture once it is pressed."""
    for place, document in enumerate(found.documents):
        with st.container(border=True, key=f"document-{place}"):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{plain(document.name)}**, {document.pages} pages. Which shall be looked at?")
                if st.button("Done", key=f"document-done-{place}", type="tertiary", icon=":material/check:"):
                    found.documents.remove(document)
                    st.rerun()
            _show_pages(found, document, place)


def _show_pages(found: Session, document: Document, place: int) -> None:
    first = 1
    if document.pages > _PAGES:
        last = document.pages - _PAGES + 1
        first = min(int(st.number_input("From page", 1, document.pages, key=f"from-page-{place}", width=160)), last)
    try:
        pages = _thumbnails(document, first)
    except UserError as error:
        st.error(plain(str(error)))
        return
    with st.container(horizontal=True, gap="small"):
        for number, page in enumerate(pages, first):
            with st.container(width=112, key=f"page-{place}-{number}", gap="small"):
                st.image(page, width=104, alt=f"Page {number}")
                if st.button(f"Page {number}", key=f"add-page-{place}-{number}", icon=":material/add:"):
                    _add_page(found, document, number)
                    st.rerun()


def _add_page(found: Session, document: Document, number: int) -> None:
    if len(found.pending) >= MOST:
        found.notices.append(f"{MOST} pictures fit into one question.")
        return
    try:
        found.pending.append(document.page(number))
        found.region, found.chosen = None, -1
    except UserError as error:
        found.notices.append(plain(str(error)))


@lru_cache(maxsize=8)
def _thumbnails(document: Document, first: int) -> list[Image.Image]:
    return document.thumbnails(range(first, first + _PAGES))


@st.dialog("Take a photo")
def take_photo(found: Session) -> None:
    """Ask the camera for a picture."""
    photo = st.camera_input("Take a photo", key=f"photo-{found.uploads}", label_visibility="collapsed")
    if photo is not None:
        add_pictures(found, [("the photo", photo.getvalue())])
        st.rerun()


def looked_at(found: Session) -> Attachment | None:
    """The picture that waits and is looked at; None where none waits."""
    return found.pending[found.chosen % len(found.pending)] if found.pending else None
