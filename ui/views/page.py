"""The page, from top to bottom."""

from pathlib import Path

import streamlit as st

from fourfold.prompts.errors import UserError
from fourfold.ui.state.session import show_in_address, state
from fourfold.ui.views.brand import icon
from fourfold.ui.views.chat import show_chat
from fourfold.ui.views.connection import connect
from fourfold.ui.views.markdown import answer_markdown
from fourfold.ui.views.refine import show_refine
from fourfold.ui.views.sidebar import show_sidebar

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
    st.html(_HERE.parent / "page.css")
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
