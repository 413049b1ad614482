"""The first screen: what the page can do, one click away."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import streamlit as st

from fourfold.assistant.images import Attachment
from fourfold.prompts.tasks import Task
from fourfold.ui.state.asking import chosen_model, send, words_for
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.pictures import shown, take
from fourfold.ui.state.session import Session
from fourfold.ui.views.pictures import add_pictures, choose_files

_SAMPLES = Path(__file__).parents[1] / "samples"
# Shipped beside this package; what the command shows first, the page shows first.
_TABLE = Path(__file__).parents[2] / "samples" / "table.jpg"


@dataclass(frozen=True)
class Sample:
    """A picture that comes with the page."""

    file: Path
    alt: str  # what it shows
    questions: tuple[tuple[str, Task | None, str], ...]  # to be asked with one click: a label, a task, its words


SAMPLES = (
    Sample(
        _TABLE,
        "A red ball, a blue box and a green bottle on a wooden table before a window",
        (
            ("What colour is the ball?", None, "What colour is the ball?"),
            ("Where is the bottle?", Task.REFER, "the bottle"),
            ("Describe it and point", Task.GROUNDING, ""),
            ("Is there a dog?", None, "Is there a dog?"),
        ),
    ),
    Sample(
        _SAMPLES / "shapes.png",  # assistant.training.data.scenes.make_scene("page5", most=5)
        "Orange and red triangles, an orange and a pink heart on brown ground",
        (
            ("Where is the pink heart?", None, "Where is the pink heart?"),
            ("Find all hearts", None, "Find all hearts"),
            ("Is there a star?", None, "Is there a star?"),
        ),
    ),
)


def show_welcome(found: Session) -> None:
    """Draw the first screen, or the pictures that wait for a question."""
    if found.pending or found.documents:
        return
    with st.container(key="welcome"):
        st.markdown("# What shall we look at?")
        st.markdown("Add a picture and ask. Answers can point, you can point too, and you correct what is wrong.")
        if files := choose_files(f"upload-{found.uploads}"):
            add_pictures(found, [(file.name, file.getvalue()) for file in files])
            st.rerun()
        st.caption("or try one of these")
        for number, (sample, column) in enumerate(zip(SAMPLES, st.columns(len(SAMPLES)), strict=True)):
            with column:
                _show_sample(found, number, sample)


def _show_sample(found: Session, number: int, sample: Sample) -> None:
    picture = _picture(sample)
    with st.container(key=f"sample-{number}", border=True, horizontal=True, vertical_alignment="center"):
        st.image(shown(picture, 480).uri, width=160, alt=sample.alt)
        with st.container(key=f"sample-questions-{number}", width="content"):
            for place, (label, task, words) in offered(sample, chosen_model(found)):
                if st.button(label, key=f"sample-{number}-{place}", disabled=not found.models):
                    send(found, words_for(task, words, None, chosen_model(found)), [picture])
                    st.rerun()
            if st.button("Draw on it yourself", key=f"sample-{number}-draw", icon=":material/draw:", type="tertiary"):
                found.pending = [picture]
                st.rerun()


def offered(sample: Sample, model: Served | None) -> list[tuple[int, tuple[str, Task | None, str]]]:
    """Questions of a sample, with their places: those of tasks that the model was measured to be good at; where nothing
    was measured, all."""
    tasks = model.card.tasks if model is not None and model.card is not None else {}

    def is_good_at(task: Task | None) -> bool:
        return task is None or task not in tasks or tasks[task].level == "good"

    return [(place, one) for place, one in enumerate(sample.questions) if is_good_at(one[1])]


@cache  # the page's script draws the first screen again and again
def _picture(sample: Sample) -> Attachment:
    return take(sample.file.read_bytes())
