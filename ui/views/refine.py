"""Corrections so far, and what is learnt from them."""

import time
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.transfer import export_corrections
from fourfold.ui.canvas import canvas
from fourfold.ui.state.asking import CHIPS
from fourfold.ui.state.boxes import BoxAnnotation
from fourfold.ui.state.pictures import shown
from fourfold.ui.state.refine_jobs import last
from fourfold.ui.state.session import Session
from fourfold.ui.state.wording import as_made, in_words
from fourfold.ui.views.components import zipped
from fourfold.ui.views.concepts import LEARNT, show_concepts
from fourfold.ui.views.learning import show_job, show_learning
from fourfold.ui.views.live import show_live
from fourfold.ui.views.markdown import plain

_AT_ONCE = 8


def show_refine(found: Session, between: DeltaGenerator, below: DeltaGenerator) -> None:
    """Draw the counts here and the lists `below`; a training that runs goes between them."""
    store, registry = found.store, found.registry
    with st.container(key="refine"):
        back = "Back to the conversation" if found.conversation else "Back to the first page"
        if st.button(back, icon=":material/arrow_back:", key="refine-back", type="tertiary", shortcut="Escape"):
            found.view = "chat"
            st.rerun()
        st.markdown("# Corrections and refining")
        st.markdown(
            "A box with a name is known by sight at once. What you correct can also become a small adapter of the "
            "model, which is measured before it answers. Both can be taken back."
        )
        with st.container(horizontal=True, key="counts"):
            current = registry.state().current
            counts = {
                "Corrections": store.count(verdict="down"),
                "Good answers": store.count(verdict="up"),
                "May train an adapter": store.count(consented=True),
            }
            for label, count in counts.items():
                st.metric(label, count, border=True, width="stretch")
            st.metric("In use", current or "as shipped", border=True, width="stretch")
    job = last()
    show_live(None if job is None or job.done else partial(show_job, job), between)
    with below, st.container(key="refining"):
        corrections, concepts, learning = st.tabs(
            [
                ":material/edit_note: Corrections",
                ":material/school: Things shown once",
                ":material/model_training: Learning",
            ]
        )
        with corrections:
            _show_corrections(found)
        with concepts:
            show_concepts(found)
        with learning:
            show_learning(found)


def _show_corrections(found: Session) -> None:
    store = found.store
    records = store.list()[::-1]
    if not records:
        st.info("Nothing is corrected yet. Below each answer about a picture there are two thumbs.", icon="👍")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        only = st.segmented_control("Show", ["All", "Corrected", "Good", "Not for training"], default="All", key="only")
        st.download_button(
            "Export",
            lambda: zipped(lambda folder: export_corrections(store, folder / "corrections.jsonl")),
            "corrections.zip",
            "application/zip",
            icon=":material/download:",
        )
    chosen = [record for record in records if _matches(record, only or "All")]
    limit = st.session_state.get("records", _AT_ONCE)
    for record in chosen[:limit]:
        _show_record(found, record)
    if len(chosen) > limit and st.button("Show more", key="more-records"):
        st.session_state.records = limit + _AT_ONCE
        st.rerun()


def _matches(record: Correction, only: str) -> bool:
    match only:
        case "Corrected":
            return record.verdict == "down"
        case "Good":
            return record.verdict == "up"
        case "Not for training":
            return not record.consent
    return True


def _show_record(found: Session, record: Correction) -> None:
    picture = found.store.image(record.image)
    with st.container(border=True, key=f"record-{record.id}"):
        left, right = st.columns([2, 3], gap="medium")
        with left:
            if record.boxes:
                marks = [BoxAnnotation(entry.box, entry.phrase, number) for number, entry in enumerate(record.boxes)]
                canvas(picture, key=f"record-canvas-{record.id}", marks=marks, alt="The corrected boxes", tall=False)
            else:
                st.image(shown(picture, 480).uri, width=260, alt="The picture that was asked about")
        with right:
            made = as_made(record.question)
            badge = f":primary-badge[{plain(CHIPS[made.task].label)}] " if made.task is not None else ""
            st.markdown(badge + plain(made.words))
            said = in_words(record.rejected, record.question)
            if record.verdict == "up":
                st.markdown(f":green[:material/thumb_up:] {plain(said)}")
            else:
                st.markdown(f":red[:material/thumb_down:] {plain(said)}")
                if record.chosen is not None:
                    st.markdown(f":green[:material/arrow_forward:] {plain(record.chosen)}")
                if record.boxes is not None:
                    number = len(record.boxes)
                    names = ", ".join(dict.fromkeys(box.phrase for box in record.boxes if box.phrase))
                    of = f": {plain(names)}" if names else ""
                    st.caption(f"{number} corrected {'box' if number == 1 else 'boxes'}{of}")
            remembered = "remembered" if record.remember else "not given back"
            trains = "an adapter may be trained with it" if record.consent else "no adapter is trained with it"
            consent = trains if record.verdict == "up" else f"{remembered} · {trains}"
            who = plain(record.adapter or record.model)
            st.caption(f"{time.strftime('%d %b %Y, %H:%M', time.localtime(record.created))} · {who} · {consent}")
            if st.button("Forget", key=f"forget-{record.id}", icon=":material/delete:", type="tertiary"):
                _forget(found, record.id)


@st.dialog("Forget the correction")
def _forget(found: Session, id: str) -> None:
    st.markdown("It is deleted for good, with its picture where no other correction has it.")
    holding = found.registry.holding([id])
    if holding:
        st.markdown(LEARNT)
    with st.container(horizontal=True):
        if st.button("Forget", type="primary", icon=":material/delete:", key="forget-really"):
            still = found.forget(id)
            if still:
                found.notices.append(f"Forgotten. The adapter {still} still holds it: train again, or roll back.")
            st.rerun()
        if st.button("Keep", key="forget-not"):
            st.rerun()
