"""The page, from top to bottom."""

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image, ImageDraw

from fourfold.prompts.errors import UserError
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.session import Session
from fourfold.ui.state.settings import current
from fourfold.ui.views.chat import show_chat
from fourfold.ui.views.components import name_toasts
from fourfold.ui.views.live import show_live
from fourfold.ui.views.markdown import plain
from fourfold.ui.views.refine import show_refine
from fourfold.ui.views.sidebar import show_sidebar

_CSS = Path(__file__).parents[1] / "page.css"
_FINE = 4  # the icon is drawn larger, then averaged down


def show_page() -> None:
    found = _session()
    st.set_page_config(
        page_title="Fourfold",
        page_icon=_icon(),
        layout="wide" if found.preferences.compare or found.view == "refine" else "centered",
        initial_sidebar_state="auto",
        menu_items={"about": "Fourfold: a chat assistant that sees. Everything stays on this machine."},
    )
    st.html(_CSS)
    above, between, below = st.container(key="above"), st.container(key="live"), st.container(key="below")
    try:
        found.connect()
        _show_in_address(found)
        with st.sidebar:
            show_sidebar(found)
        show = show_refine if found.view == "refine" else show_chat
        with above:
            show(found, between, below)
    except UserError as error:  # a history that cannot be opened, a full disk
        st.error(plain(str(error)), icon=":material/error:")
        show_live(None, between)
    with below:
        name_toasts()
    for notice in found.notices:
        st.toast(notice)
    found.notices.clear()


def _session() -> Session:
    """What this tab holds; made from the address and the preferences when the tab opens."""
    if "session" not in st.session_state:
        settings = current()
        st.session_state.session = found = Session(settings, Preferences.load(settings.preferences))
        found.preferences.model = settings.model or found.preferences.model
        found.conversation = _known(found, st.query_params.get("c"))
        found.view = "refine" if st.query_params.get("view") == "refine" else "chat"
    return st.session_state.session


def _known(found: Session, conversation: str | None) -> str | None:
    if not conversation or found.preferences.private:
        return None
    try:
        return found.history.info(conversation).id
    except UserError:
        return None


def _show_in_address(found: Session) -> None:
    """Put the conversation into the address, so that a reload comes back to it. Private ones stay out of it."""
    wanted: dict[str, Any] = {}
    if found.conversation and not found.preferences.private:
        wanted["c"] = found.conversation
    if found.view == "refine":
        wanted["view"] = "refine"
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


@cache
def _icon(side: int = 64) -> Image.Image:
    """Four small squares, of which one stands for all; RGBA. Drawn here because Streamlit would fetch an icon."""
    large = side * _FINE
    image = Image.new("RGBA", (large, large))
    pen = ImageDraw.Draw(image)
    gap, edge = large // 14, large // 16
    half = (large - 2 * edge - gap) // 2
    for row in range(2):
        for column in range(2):
            x, y = edge + column * (half + gap), edge + row * (half + gap)
            colour = (230, 159, 0, 255) if (row, column) == (0, 1) else (15, 118, 110, 255)
            pen.rounded_rectangle((x, y, x + half, y + half), half // 4, fill=colour)
    return image.resize((side, side), Image.Resampling.LANCZOS)
