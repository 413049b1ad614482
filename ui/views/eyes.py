"""What an answer's eyes saw, laid over the picture, and telling them that something is not what they took it for."""

from collections.abc import Sequence

import streamlit as st

from fourfold.assistant.grounding import Box
from fourfold.prompts.errors import UserError
from fourfold.serving.looking.claim import Claim
from fourfold.ui.canvas import Overlay
from fourfold.ui.state.eyes import heat_map, outline
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import Turn
from fourfold.ui.views.components import icon_button
from fourfold.ui.views.markdown import plain

_MAPPED = ("read-out", "read-out + model", "shown once", "detector")  # the language model alone saw no place


def overlay_of(found: Session, turn: Turn, claims: Sequence[Claim]) -> Overlay | None:
    """What is to be laid over the picture of a turn; None for nothing. What hinders is said in its place."""
    if turn.picture is None or not claims:
        return None
    heat: tuple[tuple[float, ...], ...] = ()
    mask = None
    try:
        mapped = _mapped(claims)
        if mapped and _on("heat", found, turn) and found.endpoint is not None:
            with st.spinner("Drawing the heat map…"):
                model = str(turn.figures.get("model", ""))
                phrase = mapped.phrase.removeprefix("no ")
                heat = heat_map(found.endpoint, model, turn.picture, phrase, found.concepts.stamp()).rows
        boxes = _boxes(claims)
        if boxes and _on("mask", found, turn):
            with st.spinner("Drawing outlines; the first time fetches MobileSAM, 38 MB…"):
                mask = outline(turn.picture, boxes)
    except UserError as error:
        st.error(plain(str(error)))
    return Overlay(heat, mask) if heat or mask else None


def show_eyes(found: Session, turn: Turn, claims: Sequence[Claim]) -> None:
    """Buttons below an answer: the heat map, outlines, and "that is not it" for what was shown once."""
    if turn.picture is None:
        return
    if _mapped(claims) and found.endpoint is not None:
        _toggle("heat", "Heat map", ":material/blur_on:", found, turn)
    if _boxes(claims):
        _toggle("mask", "Outlines", ":material/gesture:", found, turn)
    shown = [claim for claim in claims if claim.source == "shown once" and claim.box is not None]
    if shown and not found.preferences.private:
        name = shown[0].phrase
        if icon_button(f"That is not {plain(name)}", ":material/do_not_disturb_on:", f"not-it-{turn.position}"):
            try:
                boxes = [claim.box for claim in shown if claim.phrase == name]
                found.concepts.show(name, turn.picture, boxes, positive=False, consent=found.preferences.consent)
                noted = f"Noted: what is boxed there is not {plain(name)}."
                found.notices.append(f"{noted} Ask again to see the difference.")
            except UserError as error:
                found.notices.append(plain(str(error)))
            st.rerun()


def _mapped(claims: Sequence[Claim]) -> Claim | None:
    return next((claim for claim in claims if claim.source in _MAPPED), None)


def _boxes(claims: Sequence[Claim]) -> tuple[Box, ...]:
    return tuple(claim.box for claim in claims if claim.box is not None)


def _on(what: str, found: Session, turn: Turn) -> bool:
    return bool(st.session_state.get(f"{what}-on-{found.conversation}-{turn.position}"))


def _toggle(what: str, label: str, icon: str, found: Session, turn: Turn) -> None:
    on = _on(what, found, turn)
    if icon_button(label, icon, f"{what}-{turn.position}", on=on):
        st.session_state[f"{what}-on-{found.conversation}-{turn.position}"] = not on
        st.rerun()
