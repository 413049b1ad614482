"""Finding out which models there are, and saying so while there are none yet."""

import time

import streamlit as st

from fourfold.prompts.errors import UserError
from fourfold.ui.state.endpoint import Endpoint, served_models
from fourfold.ui.state.session import State, state
from fourfold.ui.views.markdown import answer_markdown

_FRESH = 20.0  # seconds; adapters come and go


def connect(found: State) -> None:
    """Bring the list of models up to date; what hinders is put into `found.trouble`."""
    server = found.settings.server
    if found.endpoint is None:
        if found.settings.endpoint:
            found.endpoint = Endpoint(found.settings.endpoint, found.settings.api_key)
        elif server is not None and server.state == "ready":
            found.endpoint = Endpoint(server.url, server.key)
    if found.endpoint is None:
        if server is not None and server.state == "failed":
            found.trouble = f"The local model could not be started: {server.complaint}."
        return
    if found.models and time.monotonic() - st.session_state.get("models_at", 0.0) < _FRESH:
        return
    try:
        found.models = served_models(found.endpoint)
        found.trouble = None
        st.session_state.models_at = time.monotonic()
    except UserError as error:
        # A list that was good a moment ago serves until a question says otherwise.
        found.trouble = None if found.models else str(error)
        if server is not None and found.endpoint.url == server.url and server.state != "ready":
            disconnect(found)


def disconnect(found: State) -> None:
    """Forget the endpoint and its models, for another one."""
    found.endpoint, found.models, found.trouble = None, [], None


def show_connection(found: State) -> None:
    """What is going on while there is no model to ask; nothing where there is one."""
    if found.models:
        return
    server = found.settings.server
    if found.trouble:
        st.error(answer_markdown(found.trouble), icon=":material/cloud_off:")
        if st.button("Try again", icon=":material/refresh:", key="connect-again"):
            if server is not None and server.state in ("failed", "stopped"):
                server.start()
            disconnect(found)
            st.rerun()
    elif server is not None:
        _wait()


@st.fragment(run_every=0.7)
def _wait() -> None:
    """The local server loads its model; when it is ready the page goes on by itself."""
    server = state().settings.server
    if server is None or server.state in ("ready", "failed", "stopped"):
        st.rerun()
    with st.status("Loading the model…", state="running"):
        st.caption("The first start fetches the default model, 171 MB; later ones take a few seconds.")
