"""The line above the conversation: who answers."""

import streamlit as st

from fourfold.ui.state.asking import chosen_model, other_model
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.session import State


def show_header(found: State) -> None:
    """Draw the choice of model and of the one beside it."""
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
                _choose_other(found)
        if p.private:
            st.badge("Nothing is kept", icon=":material/visibility_off:", color="violet")


def _choose_other(found: State) -> None:
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
