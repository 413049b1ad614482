"""Correcting an answer: its words, and its boxes on the picture."""

import streamlit as st

from fourfold.assistant.refine.concepts.example import examples_of
from fourfold.prompts.errors import UserError
from fourfold.ui.canvas import canvas
from fourfold.ui.state.boxes import annotate
from fourfold.ui.state.corrections import changes, record, said
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import Turn
from fourfold.ui.views.markdown import answer_markdown, plain


@st.fragment
def show_correction_panel(found: Session, turns: list[Turn], turn: Turn) -> None:
    """Draw the panel below the answer of `turn`; only it runs again while boxes are moved."""
    judgement = said(turn)
    assert judgement is not None and turn.picture is not None
    answer = turn.grounded
    with st.container(key="correction", border=True):
        st.markdown("**What would have been right?**")
        words = st.text_area("In words", answer.plain, key=f"right-words-{turn.position}", max_chars=4000)
        st.caption("On the picture: draw what is missing, move what is misplaced, name it, delete what is not there.")
        _, before = annotate(answer)
        marks = canvas(
            turn.picture,
            key=f"right-boxes-{turn.position}",
            mode="edit",
            marks=before,
            revision=f"{found.conversation}-{turn.position}",
            alt="The picture, with boxes to correct",
        )
        consent = st.checkbox(
            "Fourfold may learn from this correction",
            found.preferences.consent,
            key=f"right-consent-{turn.position}",
            help="It stays on this machine either way; without the tick it is kept but not learnt from.",
        )
        with st.container(horizontal=True):
            save = st.button("Save the correction", type="primary", icon=":material/check:", key="right-save")
            if st.button("Cancel", key="right-cancel"):
                found.correcting = None
                st.rerun()
        if save:
            new_words, new_marks = changes(answer.plain, words, marks, before)
            try:
                correction = record(turns, turn, verdict="down", consent=consent, words=new_words, marks=new_marks)
                earlier = found.judged.get(judgement)
                found.store.add(correction, turn.picture)
                if earlier is not None:
                    found.forget(earlier.id)
            except UserError as error:
                st.error(answer_markdown(str(error)))
                return
            kept = "Correction kept." if new_words is not None or new_marks is not None else "Kept as a wrong answer."
            became = [f"“{plain(example.name)}”" for example in examples_of(correction)]
            if became:
                kept += f" Its boxes are known by sight from now on: {', '.join(dict.fromkeys(became))}."
            after = " An adapter may be trained with it too." if consent else " No adapter will learn from it."
            found.notices.append(kept + after)
            found.correcting = None
            st.rerun()
