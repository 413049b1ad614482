"""A short run of the faults, and that what looks for problems would find them."""

import json
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from fourfold.assistant.refine import deploy
from fourfold.eval import endpoint as eval_endpoint
from tests.chaos.endpoints import ANSWER, CLIENTS, Plan, attack, plans, recorded_stream, response
from tests.chaos.process import Kill, Process, count_operations, kills
from tests.chaos.stores import OPERATIONS, Stores, script, write


@pytest.fixture(autouse=True)
def _as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """What clients are told of waiting, for the length of a test."""
    for module, name in ((eval_endpoint, "FIRST_WAIT"), (eval_endpoint, "_TIMEOUT"), (deploy, "_TIMEOUT")):
        monkeypatch.setattr(module, name, getattr(module, name))


def test_stores_of_a_process_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--kind", "stores", "--rounds", "1", "--seed", "5"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["kills"] >= 2 and summary["problems"] == [] and summary["rounds"] == 1


@pytest.mark.parametrize("name", CLIENTS)
def test_endpoints_that_break_off(name: str, tmp_path: Path) -> None:
    found = attack(name, random.Random(1), tmp_path, 149, 2)
    assert not found["wrong"] and sum(found["ways"].values()) > 2


def test_every_byte_is_one_at_which_an_endpoint_closes() -> None:
    closed = [plan.offset for plan in plans(random.Random(0), True, 1, 0) if plan.response.count(b"chunked")]
    assert closed == list(range(len(response(recorded_stream(), "text/event-stream", "chunks")) + 1))


def test_a_client_that_keeps_half_an_answer_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless:
        def __init__(self, url: str, folder: Path) -> None:
            import httpx

            self._url, self._httpx = url, httpx

        def __call__(self, plan: Plan) -> str:
            text = ""
            try:
                with self._httpx.stream("POST", f"{self._url}/chat/completions", json={}) as reply:
                    for line in reply.iter_lines():
                        if line.startswith("data: {"):
                            choices = json.loads(line[6:])["choices"]
                            text += choices[0]["delta"].get("content", "") if choices else ""
            except Exception:
                pass
            return "" if text == ANSWER else f"it kept {text!r}"

    monkeypatch.setitem(CLIENTS, "page", Careless)
    assert attack("page", random.Random(1), tmp_path, 149, 0)["wrong"]


def test_a_kill_at_a_file_operation_is_the_same_every_time(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        folder.mkdir()
        for name in "abc":
            (folder / name).write_text(name)
            (folder / name).rename(folder / f"{name}.done")

    seconds, operations, code = count_operations(partial(work, tmp_path / "whole"), tmp_path / "log.txt")
    assert (operations, code) == (7, 0) and seconds < 30
    for turn in range(2):
        process = Process(partial(work, tmp_path / str(turn)), tmp_path / "log.txt", Kill(number=5))
        assert process.kill_when_due() == -9
        assert sorted(path.name for path in (tmp_path / str(turn)).iterdir()) == ["a.done", "b"]


def test_a_seed_draws_the_same_again() -> None:
    drawn = [[kills(random.Random(f"3 training {n}"), 4.0, 50) for n in range(8)] for _ in range(2)]
    assert drawn[0] == drawn[1] and len({str(kill) for kill in drawn[0]}) > 4
    assert script(random.Random(1)) == script(random.Random(1)) != script(random.Random(2))
    assert {what for what, _ in script(random.Random(1), 400)} >= {"append", "withdraw", "delete", "forget once"}


def test_a_step_that_is_lost_or_done_twice_makes_another_state(tmp_path: Path) -> None:
    """What a round compares would show it: states after each step differ, but for steps that change nothing."""
    todo = [step for step in script(random.Random(4)) if step[0] in ("create", "append", "correct", "show once")][:10]
    stores, seen = Stores(tmp_path), set()
    for operation in todo:
        stores.do(operation)
        seen.add(stores.state())
    assert len(seen) == len(todo) > 5 and len(todo) < OPERATIONS
    stores.do(next(step for step in todo if step[0] == "append"))
    assert stores.state() not in seen and not stores.damage()
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    write(tmp_path, [("create", {"title": "one more"})], acknowledged)
    assert acknowledged.stat().st_size == 1
