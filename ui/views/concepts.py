"""Things shown once: what the eyes were taught by a drawn box and a name."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.concepts.store import Concept
from fourfold.assistant.refine.concepts.transfer import import_lines, line_of
from fourfold.prompts.errors import UserError
from fourfold.ui.canvas import canvas
from fourfold.ui.state.asking import chosen_model
from fourfold.ui.state.boxes import BoxAnnotation
from fourfold.ui.state.eyes import knows_what_was_shown
from fourfold.ui.state.session import Session
from fourfold.ui.views.markdown import plain

LEARNT = "Adapters have learnt it. Those are deleted too, but for the one in use, which stays until replaced."
"""What to say before something is forgotten."""
_PICTURES = 6  # of one concept


def show_once(found: Session, picture: Attachment, box: Box) -> None:
    """Name what a rectangle holds, beside the rectangle; nothing where whoever answers has no eyes to know it by."""
    served = chosen_model(found)
    if served is None or served.eyes is None or found.endpoint is None:
        return
    model = served.eyes
    with st.form("show-once", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input(
            "Or show it once", placeholder="Rex, our bracket, scratch", max_chars=60, key="concept-name"
        )
        taught = st.form_submit_button(
            "Remember it",
            icon=":material/school:",
            help="It is known by sight at once, in other pictures too. Kept on this machine.",
        )
    if taught:
        try:
            concept = found.concepts.show(name, picture, [box], consent=found.preferences.consent)
        except UserError as error:
            st.error(plain(str(error)))
            return
        count = len(found.concepts.get(concept.name).examples)
        called = plain(concept.name)
        more = "" if count == 1 else f" It has {count} examples now."
        if knows_what_was_shown(found.endpoint, model, picture, concept.name):
            found.notices.append(f"{called} is known by sight.{more} Ask “where is {called}?”")
        elif found.asks_local_server:  # it looks there, and learnt nothing from this box
            found.notices.append(f"{called} is kept, but not yet known by sight.{more} Show it once more.")
        else:
            found.notices.append(
                f"{called} is kept on this machine, but the endpoint that answers does not look there.{more} "
                f"`fourfold serve --store {found.settings.corrections}` does."
            )
        found.region, found.pointing = None, False
        found.drawings += 1
        st.rerun()


def show_concepts(found: Session) -> None:
    """List, rename, forget, export, import."""
    concepts = found.concepts.list()
    if not concepts:
        st.info(
            "Nothing was shown yet. Draw a rectangle on a picture, give it a name, and it is known in other pictures.",
            icon=":material/school:",
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        if concepts:
            st.download_button(
                "Export",
                lambda: _exported(found),
                "concepts.jsonl",
                "application/jsonl",
                icon=":material/download:",
                key="export-concepts",
            )
        with st.popover("Import", icon=":material/upload:"):
            file = st.file_uploader("A file that was exported here", "jsonl", key=f"import-concepts-{found.uploads}")
            if file is not None:
                _import(found, file.getvalue())
    for number, concept in enumerate(concepts):
        _show_concept(found, concept, number)


def _exported(found: Session) -> str:
    """One file, its pictures in it."""
    concepts = found.concepts
    examples = [example for concept in concepts.list() for example in concept.examples]
    return "".join(line_of(example, concepts.image(example.image).data_uri) for example in examples)


def _import(found: Session, data: bytes) -> None:
    try:
        came = import_lines(found.concepts, data.splitlines(), "the file")
        known = f", {came.known} were there already" if came.known else ""
        found.notices.append(f"{came.added} {'example' if came.added == 1 else 'examples'} imported{known}.")
    except UserError as error:
        found.notices.append(plain(str(error)))
    found.uploads += 1
    st.rerun()


def _show_concept(found: Session, concept: Concept, number: int) -> None:
    with st.container(border=True, key=f"concept-{number}"):
        good = sum(example.positive for example in concept.examples)
        bad = len(concept.examples) - good
        counts = f"{good} {'example' if good == 1 else 'examples'}" + (f", {bad} of what it is not" if bad else "")
        st.markdown(f"**{plain(concept.name)}**  :small[:gray[{counts}]]")
        with st.container(horizontal=True, gap="small"):
            for example in concept.examples[-_PICTURES:]:
                with st.container(width=180, key=f"example-{example.id}"):
                    label = concept.name if example.positive else f"not {concept.name}"
                    marks = [BoxAnnotation(box, label) for box in example.boxes]
                    picture = found.concepts.image(example.image)
                    canvas(picture, key=f"example-canvas-{example.id}", marks=marks, alt=label, tall=False)
                    if len(concept.examples) > 1 and st.button(
                        "Forget this one", key=f"forget-example-{example.id}", type="tertiary"
                    ):
                        _try(found, partial(_forget_example, found, example.id))
        with st.container(horizontal=True, vertical_alignment="bottom"):
            new = st.text_input("Name", concept.name, max_chars=60, key=f"rename-{number}-{concept.name}", width=240)
            if st.button("Rename", key=f"rename-go-{number}") and new.strip() != concept.name:
                _try(found, lambda: found.concepts.rename(concept.name, new))
            if st.button("Forget", key=f"forget-concept-{number}", icon=":material/delete:"):
                _forget(found, concept.name)


@st.dialog("Forget the thing")
def _forget(found: Session, name: str) -> None:
    st.markdown(f"**{plain(name)}** is deleted for good, with its pictures where nothing else has them.")
    examples = [example.id for example in found.concepts.get(name).examples]
    if found.registry.holding(examples):
        st.markdown(LEARNT)
    with st.container(horizontal=True):
        if st.button("Forget", type="primary", icon=":material/delete:", key="forget-really"):
            _try(found, lambda: _forgotten(found, found.forget_concept(name)))
        if st.button("Keep", key="forget-not"):
            st.rerun()


def _forget_example(found: Session, example: str) -> None:
    _forgotten(found, found.forget_example(example))


def _forgotten(found: Session, still: str | None) -> None:
    if still:
        found.notices.append(f"Forgotten. The adapter {still} still holds it: train again, or roll back.")


def _try(found: Session, change: Callable[[], object]) -> None:
    try:
        change()
    except UserError as error:
        found.notices.append(plain(str(error)))
    st.rerun()
