"""The page's own children: the server that answers and the steps of refinement."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
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


def test_a_server_ends_with_a_page_that_is_killed(tiny_checkpoint: Path) -> None:
    """Else one that nobody knows of would keep its memory until the machine is started anew."""
    start = (
        "import sys, time\nfrom fourfold.ui.state.local_server import LocalServer\n"
        "LocalServer(sys.argv[1]).start()\nprint(flush=True)\ntime.sleep(600)"
    )
    page = psutil.Popen([sys.executable, "-c", start, str(tiny_checkpoint)], stdout=subprocess.PIPE)
    assert page.stdout is not None
    page.stdout.readline()
    servers = page.children()
    page.kill()
    page.communicate()
    gone, left = psutil.wait_procs(servers, timeout=60)
    for server in left:
        server.kill()
    assert len(gone) == 1 and not left


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = LocalServer(str(tmp_path / "nothing"))
    server.start()
    wait(lambda: server.state != "starting")
    wait(lambda: "nothing" in server.complaint)
    assert server.state == "failed"
    server.stop()


def test_a_step_of_refinement_runs_as_a_child(tmp_path: Path) -> None:
    CorrectionStore(tmp_path)
    failed = Job("rollback", [], tmp_path)
    wait(lambda: failed.done)
    assert failed.result is None and "nothing to roll back" in (failed.error or "")


CHILD = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
from fourfold.assistant.progress import Progress, print_progress
signal.signal(signal.SIGINT, signal.default_int_handler)  # as `--progress json` does
print("a warning of a library", file=sys.stderr)
print_progress(Progress("before", 12, 48))
while not Path(r"{go}").exists():
    time.sleep(0.01)
print_progress(Progress("after"))
print(json.dumps({{"arguments": sys.argv[1:], "key": os.environ.get("FOURFOLD_ADMIN_KEY"), "long": "x" * 10**6}}))
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of Python's own, which goes on when the file that is returned appears."""
    program, go = tmp_path / "child", tmp_path / "go"
    program.write_text(CHILD.format(python=sys.executable, go=go))
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("FOURFOLD_ADMIN_KEY", "of somebody else")
    return go


def test_progress_and_a_long_answer_of_a_step(tmp_path: Path, child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("gate", ["abc"], tmp_path)
    wait(lambda: job.part == 0.25)
    assert job.progress.stage == "before" and not job.done
    assert job.left is None  # too early to tell
    monkeypatch.setattr("fourfold.ui.state.refine_jobs._PACE", 0.0)
    assert job.left is not None and 0 < job.left < 3 * (time.time() - job.began)  # three quarters are to come
    child.touch()
    wait(lambda: job.done)
    assert job.progress.stage == "after" and job.part is None
    assert job.error is None and job.result is not None and len(job.result["long"]) == 10**6
    assert job.result["arguments"][1:5] == ["-m", "fourfold", "refine", "gate"] and job.result["key"] is None
    assert Job("rollback", [], tmp_path).part is None


def test_a_step_is_stopped(tmp_path: Path, child: Path) -> None:
    job = Job("train", [], tmp_path, "the admin key")
    wait(lambda: job.part == 0.25)
    job.stop()
    wait(lambda: job.done)
    assert job.stopped and job.error is None and job.result is None
