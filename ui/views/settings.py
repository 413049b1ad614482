"""What can be set: parameters, second looks, privacy, and where answers come from."""

import importlib.util

import streamlit as st

from fourfold.assistant.grounding import family_of
from fourfold.ui.state.asking import chosen_model
from fourfold.ui.state.endpoint import Endpoint
from fourfold.ui.state.local_server import LocalServer
from fourfold.ui.state.preferences import Look
from fourfold.ui.state.session import Session
from fourfold.ui.views.box_format import ask_box_format

_LOOKS: dict[Look, tuple[str, str]] = {
    "check_claims": ("Check what it says", "Looks for each thing that the answer names, up to four questions a thing."),
    "closer": ("Look closer", "Asks again about the part of the picture that matters, at full resolution."),
    "agreement": ("Ask in three ways", "How many, whether and where must fit together."),
    "read": ("Read the text in it", "Reads the picture's text and asks again with it."),
}


def show_settings(found: Session) -> None:
    with st.container(key="settings"):
        _answers(found)
        _looks(found)
        _privacy(found)
        _connection(found)


def _answers(found: Session) -> None:
    p = found.preferences
    with st.expander("Answers", icon=":material/tune:"):
        p.temperature = st.slider(
            "Temperature",
            0.0,
            1.5,
            p.temperature,
            0.1,
            key="temperature",
            help="0 takes the likeliest word.",
        )
        p.max_tokens = int(st.number_input("Longest answer, in tokens", 1, 4096, p.max_tokens, 16, key="max-tokens"))
        p.top_p = st.slider("Top-p", 0.05, 1.0, p.top_p, 0.05, key="top-p", help="Draws only from the likeliest words.")
        seed = st.number_input(
            "Seed",
            0,
            2**31 - 1,
            p.seed,
            key="seed",
            help="With it, an answer repeats.",
        )
        p.seed = None if seed is None else int(seed)
        p.system = st.text_area("Instructions for every conversation", p.system, max_chars=4000, key="system")
        if any(served.eyes for served in found.models):
            p.eyes = st.toggle(
                "Look first",
                p.eyes,
                key="eyes",
                help="Where, how many and whether: what the eyes see goes before what the language model guesses.",
            )
        p.remember = st.toggle(
            "Remember corrections",
            p.remember,
            key="remember",
            help="The same question about the same picture gets your corrected answer, whoever is asked.",
        )
        found.save()


def _looks(found: Session) -> None:
    p = found.preferences
    with st.expander("Looking again", icon=":material/visibility:"):
        st.caption("The model looks a second time before its answer is believed. Each costs further questions.")
        on: list[Look] = []
        for name, (label, help) in _LOOKS.items():
            missing = name == "read" and importlib.util.find_spec("rapidocr") is None
            note = " Needs the extra: pip install 'fourfold[ocr]'" if missing else ""
            value = name in p.looks and not missing
            if st.toggle(label, value, key=f"look-{name}", help=help + note, disabled=missing):
                on.append(name)
        if on != p.looks:
            p.looks = on
            found.save()


def _privacy(found: Session) -> None:
    p = found.preferences
    with st.expander("Privacy", icon=":material/lock:"):
        private = st.toggle(
            "Keep nothing",
            p.private,
            key="private",
            help="Conversations live in memory only and are gone with this tab; answers cannot be corrected.",
        )
        if private != p.private:
            found.set_private(private)
            st.rerun()
        consent = st.toggle(
            "Adapters may be trained with corrections",
            p.consent,
            key="consent",
            help="What the tick of a new correction begins with. Training happens on this machine, when you start it.",
        )
        if consent != p.consent:
            p.consent = consent
            found.save()
        elsewhere = found.endpoint is not None and not found.asks_local_server
        where = "to the endpoint that you connected" if elsewhere else "nowhere"
        st.caption(
            f"Conversations and corrections are kept in `{found.settings.history.parent}`, on this machine only. "
            f"Pictures and words are sent {where}. Deleting overwrites what is deleted."
        )


def _connection(found: Session) -> None:
    server = found.settings.server
    with st.expander("Connection", icon=":material/lan:"):
        if found.endpoint is not None:
            st.caption(f"{'Local model at' if found.asks_local_server else 'Endpoint'} `{found.endpoint.url}`")
        chosen = chosen_model(found)
        if chosen is not None and family_of(chosen.parent or chosen.name) is None:
            ask_box_format(found, chosen.parent or chosen.name, key="connection")
        with st.form("connect", border=False):
            url = st.text_input("Another endpoint", placeholder="http://127.0.0.1:8000/v1", key="endpoint-url")
            key = st.text_input("Its key", type="password", key="endpoint-key", autocomplete="off")
            name = st.text_input("Its model, where it lists none", key="endpoint-model")
            if st.form_submit_button("Connect", icon=":material/link:") and url.strip():
                found.choose(Endpoint(url.strip(), key.strip() or None, name.strip() or None))
                st.rerun()
            st.caption(
                "The address is kept for the next time. The key is not: it is gone when the page's process ends."
            )
        first = found.settings.endpoint or ("the model on this machine" if server is not None else None)
        if (
            first
            and found.chosen_endpoint is not None
            and st.button(f"Back to {first}", icon=":material/undo:", key="endpoint-back")
        ):
            found.choose(None)
            st.rerun()
        if server is not None:
            _server(found, server)


def _server(found: Session, server: LocalServer) -> None:
    with st.form("server", border=False):
        st.caption("The model on this machine")
        model = st.text_input("Checkpoint", server.model or "", placeholder="fourfold-mini", key="server-model")
        names = ["as it is", "4bit", "8bit"]
        now = server.quantization or names[0]
        quantization = st.selectbox("Quantisation", names, names.index(now), key="server-quantization")
        adapter = st.text_input("Adapter", server.adapter or "", placeholder="none", key="server-adapter")
        if st.form_submit_button("Start it so", icon=":material/restart_alt:"):
            server.restart(
                model.strip() or None, None if quantization == names[0] else quantization, adapter.strip() or None
            )
            found.choose(None)
            st.rerun()
