"""The part of the page that draws itself again and again while something is under way."""

from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

Live = Callable[[], None]
"""Draws how far something has come, as `_MOST` elements or fewer; draws the page anew (`st.rerun`) at its end."""

_EVERY = 0.3  # seconds
_MOST = 2


def show_live(draw: Live | None, place: DeltaGenerator) -> None:
    """Draw it in `place`, again and again; None for nothing.

    To be called in every run of the page, with the same place: a browser's timer may ask once more for a fragment after
    the run that it was last part of, and a fragment that is gone by then cannot be drawn.
    """
    with place:
        st.fragment(_draw, run_every=_EVERY if draw else None)(draw)


def _draw(draw: Live | None) -> None:
    if draw is not None:
        draw()
        return
    for _ in range(_MOST):  # what stood here goes at once, not at the end of the run: it is drawn elsewhere by now
        st.empty()
