"""The sidebar: conversations, and everything that can be set."""

import time

import streamlit as st

from fourfold.assistant.chat.export import export_conversation
from fourfold.assistant.chat.history import ConversationInfo
from fourfold.prompts.errors import UserError
from fourfold.ui.state.answering import drop, under_way
from fourfold.ui.state.corrections import said
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import every_turn
from fourfold.ui.views.components import put_focus, zipped
from fourfold.ui.views.markdown import plain
from fourfold.ui.views.settings import show_settings

_AT_ONCE = 30
_MENU = ("Rename", "Export", "Delete")


def show_sidebar(found: Session) -> None:
    with st.container(key="brand"):
        st.markdown("**Fourfold**")
    if st.button("New chat", icon=":material/edit_square:", key="new-chat", width="stretch", type="secondary"):
        found.open(None)
        st.rerun()
    if st.button(
        "Corrections and refining",
        icon=":material/school:",
        key="open-refine",
        width="stretch",
        type="secondary" if found.view == "refine" else "tertiary",
    ):
        found.view = "refine"
        st.rerun()
    _conversations(found)
    show_settings(found)


def _conversations(found: Session) -> None:
    history = found.history
    search = st.text_input(
        "Search conversations",
        key="search",
        placeholder="Search conversations",
        label_visibility="collapsed",
        icon=":material/search:",
        live=True,
    )
    infos = [
        info
        for info in history.conversations(search)
        if info.messages or info.id == found.conversation or under_way(info.id)
    ]
    limit = st.session_state.get("listed", _AT_ONCE)
    with st.container(key="conversations"):
        if not infos:
            st.caption("Nothing found." if search else "Conversations will be listed here.")
        day = None
        for info in infos[:limit]:
            if (heading := _day(info.updated)) != day:
                st.caption(day := heading)
            _row(found, info)
        if len(infos) > limit and st.button("Show more", key="show-more", type="tertiary"):
            st.session_state.listed = limit + _AT_ONCE
            st.rerun()


def _row(found: Session, info: ConversationInfo) -> None:
    shown = found.view == "chat" and info.id == found.conversation
    with st.container(horizontal=True, gap=None, vertical_alignment="center", wrap=False, key=f"row-{info.id}"):
        title = plain(info.title or "New conversation")
        if st.button(title, key=f"open-{info.id}", width="stretch", type="secondary" if shown else "tertiary"):
            found.open(info.id)
            st.rerun()
        wish = st.menu_button("More", _MENU, icon=":material/more_horiz:", type="tertiary", key=f"menu-{info.id}")
    if wish == "Rename":
        _rename(found, info)
    elif wish == "Export":
        _export(found, info)
    elif wish == "Delete":
        _delete(found, info)


@st.dialog("Rename the conversation")
def _rename(found: Session, info: ConversationInfo) -> None:
    put_focus("[role='dialog'] input", info.id, select=True)
    with st.form("rename", border=False):
        title = st.text_input("Title", value=info.title, max_chars=200)
        if st.form_submit_button("Rename", type="primary"):
            try:
                found.history.rename(info.id, title)
                st.rerun()
            except UserError as error:
                st.error(plain(str(error)))


@st.dialog("Export the conversation")
def _export(found: Session, info: ConversationInfo) -> None:
    st.markdown(f"**{plain(info.title)}** as text (Markdown), as JSON, with its pictures.")
    st.download_button(
        "Download",
        # At once, not when it is pressed: a button that waits for its file loses the focus, and Escape goes nowhere.
        zipped(lambda folder: export_conversation(found.history, info.id, folder)),
        file_name="conversation.zip",
        mime="application/zip",
        type="primary",
        icon=":material/download:",
        key="download-export",
        on_click="ignore",  # drawn again, a dialog that was closed meanwhile would come back
    )


@st.dialog("Delete the conversation")
def _delete(found: Session, info: ConversationInfo) -> None:
    st.markdown(f"**{plain(info.title or 'This conversation')}** and its pictures are deleted for good.")
    ids = _corrections_of(found, info.id)
    also = False
    if ids:
        number = len(ids)
        words = "the correction" if number == 1 else f"the {number} corrections"
        also = st.checkbox(f"Forget {words} made in it too", value=True)
    with st.container(horizontal=True):
        if st.button("Delete", type="primary", icon=":material/delete:", key="delete-really"):
            drop(info.id)
            found.history.delete(info.id)
            for id in ids if also else ():
                found.forget(id)
            found.forget_conversation(info.id)
            st.rerun()
        if st.button("Keep", key="delete-not"):
            st.rerun()


def _corrections_of(found: Session, conversation: str) -> list[str]:
    if found.preferences.private:
        return []
    records = found.judged
    answers = dict.fromkeys(said(turn) for turn in every_turn(found.history.versions(conversation)))
    return [records[answer].id for answer in answers if answer in records]


def _day(then: float) -> str:
    days = (time.mktime(time.strptime(time.strftime("%Y-%m-%d"), "%Y-%m-%d")) - then) / 86400
    if days <= 0:
        return "Today"
    if days <= 1:
        return "Yesterday"
    return "Previous 7 days" if days <= 7 else time.strftime("%B %Y", time.localtime(then))
