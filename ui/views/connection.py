"""Which model answers: the choice above the conversation, and what is going on while there is none to ask."""

from functools import partial

import streamlit as st

from fourfold.ui.state.asking import chosen_model, other_model
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.local_server import LocalServer
from fourfold.ui.state.session import Session
from fourfold.ui.views.live import Live
from fourfold.ui.views.markdown import plain


def show_header(found: Session) -> None:
    p = found.preferences
    with st.container(key="header", horizontal=True, vertical_alignment="center", gap="small"):
        if found.models:
            first = chosen_model(found)
            names = [served.name for served in found.models]
            model = _choose("Model", found.models, names.index(first.name) if first else 0, "model")
            if model != (first.name if first else ""):
                p.model = model
                found.save()
                st.rerun()
            compare = st.toggle("Compare", p.compare, key="compare", help="Ask two models the same question")
            if compare != p.compare:
                p.compare = compare
                found.save()
                st.rerun()
            if p.compare:
                with st.container(key="compared", width="content"):
                    _choose_other(found)
        if p.private:
            st.badge("Nothing is kept", icon=":material/visibility_off:", color="violet")
    chosen = chosen_model(found)
    if chosen is not None and chosen.card is not None:
        with st.container(key="card"):
            st.caption(plain(chosen.card.line))


def _choose_other(found: Session) -> None:
    first, second = chosen_model(found), other_model(found)
    rest = [served for served in found.models if first is None or served.name != first.name]
    if second is None:
        st.caption("This endpoint serves one model only. Load an adapter, or connect an endpoint with several.")
        return
    other = _choose("Compared with", rest, rest.index(second), "other")
    if other != second.name:
        found.preferences.other = other
        found.save()
        st.rerun()


def _choose(label: str, models: list[Served], index: int, key: str) -> str:
    parents = {served.name: served.parent for served in models}
    chosen = st.selectbox(
        label,
        [served.name for served in models],
        index,
        format_func=lambda name: f"{name} (adapter)" if parents.get(name) else name,
        key=key,
        label_visibility="collapsed",
        width=260,
    )
    return chosen or ""


def show_connection(found: Session) -> None:
    """Why there is no model to ask; nothing where there is one or it is still loading."""
    if not found.models and found.trouble:
        server = found.settings.server
        st.error(plain(found.trouble), icon=":material/cloud_off:")
        if st.button("Try again", icon=":material/refresh:", key="connect-again"):
            if server is not None and server.state in ("failed", "stopped"):
                server.start()
            found.disconnect()
            st.rerun()


def loading(found: Session) -> Live | None:
    """Draws that the local server loads its model; None where it does not."""
    server = found.settings.server
    waits = not found.models and not found.trouble and server is not None
    return partial(_wait, server) if waits and server is not None else None


def _wait(server: LocalServer) -> None:
    if server.state in ("ready", "failed", "stopped"):
        st.rerun()
    with st.status("Loading the model…", state="running"):
        st.caption("The first start fetches the default model, 171 MB; later ones take a few seconds.")
