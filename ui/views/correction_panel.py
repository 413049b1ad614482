"""Correcting an answer: its words, and its boxes on the picture."""

import streamlit as st

from fourfold.assistant.refine.concepts.example import examples_of
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.targets import corrected_answer
from fourfold.prompts.errors import UserError
from fourfold.ui.canvas import canvas
from fourfold.ui.state.asking import chosen_model
from fourfold.ui.state.boxes import annotate
from fourfold.ui.state.correcting import correct
from fourfold.ui.state.corrections import changes, named, said
from fourfold.ui.state.eyes import knows_what_was_shown
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import Turn
from fourfold.ui.views.components import put_focus
from fourfold.ui.views.markdown import plain


@st.fragment
def show_correction_panel(found: Session, turns: list[Turn], turn: Turn) -> None:
    """Draw the panel below the answer of `turn`; only it runs again while boxes are moved."""
    assert said(turn) is not None and turn.picture is not None
    answer = turn.grounded
    with st.container(key="correction", border=True):
        st.markdown("**What would have been right?**")
        put_focus(".st-key-correction textarea", f"right-{turn.position}", panel=".st-key-correction")
        words = st.text_area("In words", answer.plain, key=f"right-words-{turn.position}", max_chars=4000)
        st.caption("On the picture: draw what is missing, move what is misplaced, name it, delete what is not there.")
        marks = canvas(
            turn.picture,
            key=f"right-boxes-{turn.position}",
            mode="edit",
            marks=annotate(answer, turn.words)[1],
            revision=f"{found.conversation}-{turn.position}-{turn.answered_in.at}",
            alt="The picture, with boxes to correct",
        )
        remember = st.checkbox(
            "Remember it for this picture",
            True,
            key=f"right-remember-{turn.position}",
            help="The same question about this picture gets your answer, at once, and a box with a name is known by "
            "sight in other pictures too. It stays on this machine.",
        )
        consent = st.checkbox(
            "An adapter may be trained with it",
            found.preferences.consent,
            key=f"right-consent-{turn.position}",
            help="So that other pictures are answered better. Nothing is trained before you start it, under "
            "Corrections and refining, on this machine. Without the tick no training ever sees it.",
        )
        with st.container(horizontal=True):
            save = st.button("Save the correction", type="primary", icon=":material/check:", key="right-save")
            if st.button("Cancel", key="right-cancel", shortcut="Escape"):
                found.correcting = None
                st.rerun()
        if save:
            new_words, new_marks = changes(turn.rejected, words, named(marks, turn.words), turn.words)
            try:
                kept = correct(found, turns, turn, words=new_words, marks=new_marks, remember=remember, consent=consent)
            except UserError as error:
                st.error(plain(str(error)))
                return
            found.notices.append(_what_it_does(found, turn, kept))
            found.correcting = None
            st.rerun()


def _what_it_does(found: Session, turn: Turn, kept: Correction) -> str:
    """What becomes of a correction, for the person who made it."""
    if kept.chosen is None and kept.boxes is None:
        return "Kept as a wrong answer. To have it answered rightly, say what would have been right."
    told = ["Correction kept."]
    if kept.remember:
        told.append(_given_back(found, turn, kept))
        if shown := list(dict.fromkeys(example.name for example in examples_of(kept) if example.positive)):
            told.append(_known_by_sight(found, turn, shown))
    else:
        told.append("It is not given back.")
    told.append("An adapter may be trained with it." if kept.consent else "No adapter is trained with it.")
    return " ".join(told)


def _given_back(found: Session, turn: Turn, kept: Correction) -> str:
    assert turn.picture is not None
    recalled = found.memory.recall(turn.picture, turn.words)
    if recalled is not None and recalled.id == kept.id:
        on = "" if found.preferences.remember else ", once “Remember corrections” is on"
        return f"The same question about this picture is answered so from now on{on}."
    if corrected_answer(kept) is None:
        return "It stands beside the answer, whose words were right."
    return "It is not given back by itself: the question is too long, or needs what was said before it."


def _known_by_sight(found: Session, turn: Turn, names: list[str]) -> str:
    called = ", ".join(f"“{plain(name)}”" for name in names)
    served = chosen_model(found)
    assert turn.picture is not None
    if served is None or served.eyes is None or found.endpoint is None:
        return f"{called} is kept as shown once, for models that have eyes; this one has none."
    if knows_what_was_shown(found.endpoint, served.eyes, turn.picture, names[0]):
        return f"{called} is known by sight."
    if found.asks_local_server:  # of what the eyes know anyway, a correction moves the read-out a little
        return f"{called} is kept as shown once, beside what the eyes knew of it before."
    return f"{called} is kept as shown once, but the endpoint that answers does not look in this folder."
