"""How far a training is, on the page."""

import time
from types import SimpleNamespace

import pytest

from fourfold.assistant.progress import Progress
from fourfold.ui.state import refine_jobs
from fourfold.ui.state.settings import Settings
from tests.ui.test_page import page, run, words


def test_what_is_done_how_much_of_it_and_how_it_goes_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    job = SimpleNamespace(
        verb="train",
        began=time.time() - 130,
        progress=Progress("loading the model"),
        part=None,
        left=None,
        stopped=False,
        done=False,
        error=None,
        result=None,
    )
    monkeypatch.setattr(refine_jobs, "_last", job)
    app = page(view="refine")
    assert "Loading the model…" in words(app) and not app.get("progress")  # no bar of what nobody can count
    job.progress, job.part, job.left = Progress("looking at the images", 30, 120), 0.25, 200.0
    run(app)
    [bar] = app.get("progress")
    assert bar.proto.value == 25 and bar.proto.text == "Looking at the images: 30 of 120, about 3 min more"
    assert "For 2 min now." in words(app)
    job.done = job.stopped = True
    run(app)
    assert "was stopped. Begun again, it goes on from there." in words(app)
    assert app.button(key="train").label == "Go on learning"
