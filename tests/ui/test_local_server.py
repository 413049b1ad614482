"""The page's own children: the server that answers and the steps of refinement."""

import time
from pathlib import Path

import pytest

from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from fourfold.ui.state.endpoint import Endpoint, served_models
from fourfold.ui.state.local_server import CURRENT, LocalServer
from fourfold.ui.state.refine_jobs import Job


def wait(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_server_of_its_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    server = LocalServer(str(tiny_checkpoint), None, CURRENT, tmp_path)
    assert server.state == "stopped"
    server.start()
    try:
        wait(lambda: server.state != "starting")
        assert server.state == "ready", server.complaint
        [model] = served_models(Endpoint(server.url, server.key))
        assert model.context_length == 1024
        with pytest.raises(UserError, match="refuses this key"):
            served_models(Endpoint(server.url, "k" * 32))
    finally:
        server.stop()
    assert server.state == "stopped"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = LocalServer(str(tmp_path / "nothing"))
    server.start()
    wait(lambda: server.state != "starting")
    wait(lambda: "nothing" in server.complaint)
    assert server.state == "failed"
    server.stop()


def test_a_step_of_refinement_runs_as_a_child(tmp_path: Path) -> None:
    CorrectionStore(tmp_path)
    done = Job("history", [], tmp_path, None)
    wait(lambda: done.done)
    assert done.error is None and done.result is not None and done.result["current"] is None
    failed = Job("rollback", [], tmp_path, None)
    wait(lambda: failed.done)
    assert failed.result is None and "nothing to roll back" in (failed.error or "")


def test_progress_is_read_from_a_bar(tmp_path: Path) -> None:
    job = Job("history", [], tmp_path, None)
    wait(lambda: job.done)
    job._hear("step 12, loss 0.53 ━━━━╸        40% 0:00:10")
    assert job.part == 0.4 and job.doing == "step 12, loss 0.53"
    job._hear("before ━━━━━━━ 12/48 0:00:10")
    assert job.part == 0.25
