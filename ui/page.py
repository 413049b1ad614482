"""The page, from top to bottom."""

from pathlib import Path

import streamlit as st

from prompts.errors import UserError
from ui.brand import icon
from ui.chat_view import show_chat
from ui.connection import connect
from ui.refine_view import show_refine
from ui.safe_text import answer_markdown
from ui.sidebar import show_sidebar
from ui.state import show_in_address, state

_HERE = Path(__file__).parent


def show_page() -> None:
    """One run of the script."""
    found = state()
    st.set_page_config(
        page_title="Fourfold",
        page_icon=icon(),
        layout="wide" if found.preferences.compare or found.view == "refine" else "centered",
        initial_sidebar_state="auto",
        menu_items={"about": "Fourfold: a chat assistant that sees. Everything stays on this machine."},
    )
    st.html(_HERE / "page.css")
    try:
        connect(found)
        show_in_address()
        with st.sidebar:
            show_sidebar(found)
        if found.view == "refine":
            show_refine(found)
        else:
            show_chat(found)
    except UserError as error:  # a history that cannot be opened, a full disk
        st.error(answer_markdown(str(error)), icon=":material/error:")
    for notice in found.notices:
        st.toast(notice)
    found.notices.clear()
