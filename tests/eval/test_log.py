import json
from pathlib import Path

import pytest

from fourfold.eval.log import EvalLog, configuration_hash
from fourfold.eval.model import Output
from fourfold.prompts.errors import UserError


def test_a_cut_line_goes_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with EvalLog(path, {"model": "a"}) as log:
        log.add("1", Output("yes"))
        log.add("2", Output("no\n\u2028é \ud800"))  # line separators and half a surrogate pair stay on their line
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"sample": "3", "conf')
    with EvalLog(path, {"model": "a"}) as log:
        assert set(log.done) == {"1", "2"} and path.read_bytes() == whole
        log.add("3", Output("maybe"))
    with EvalLog(path, {"model": "a"}) as log:
        assert [output.text for output in log.done.values()] == ["yes", "no\n\u2028é \ufffd", "maybe"]


def test_other_configurations_and_failures_are_asked_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with EvalLog(path, {"model": "a"}) as log:
        log.add("1", Output("yes"))
        log.add("2", Output(error="gone"))
    with EvalLog(path, {"model": "b"}) as log:
        assert not log.done
    with EvalLog(path, {"model": "a"}) as log:
        assert set(log.done) == {"1"}


def test_logs_of_processes_that_shared_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        with EvalLog(tmp_path / "answers.jsonl", {}) as log:
            log.add(str(rank), Output("x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers-0.jsonl", "answers-1.jsonl"]
    monkeypatch.delenv("WORLD_SIZE")
    with EvalLog(tmp_path / "answers.jsonl", {}) as log:
        assert set(log.done) == {"0", "1"}


def test_lines_of_earlier_releases(tmp_path: Path) -> None:
    """As they stand in logs of benchmarks and of the card."""
    configuration = configuration_hash({"model": "a"})
    records = [
        {"sample": "7", "answer": "no", "finish_reason": "stop", "seconds": 0.5, "scores": [-1, -2], "endpoint": "u"},
        {"sample": "loss/1", "question": "?", "image": None, "reference": "a cat", "loss": 2.5},
    ]
    lines = [json.dumps({"configuration": configuration, **record}) for record in records]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n")
    with EvalLog(tmp_path / "answers.jsonl", {"model": "a"}) as log:
        assert log.done["7"].scores == (-1, -2) and log.done["7"].fields["seconds"] == 0.5
        assert log.done["loss/1"].text is None and log.done["loss/1"].fields["loss"] == 2.5


def test_another_file_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"question_id": 1}\n')
    with pytest.raises(UserError, match="line 1 is no answer record"):
        EvalLog(tmp_path / "log.jsonl", {})


def test_hash_ignores_order_and_sees_values() -> None:
    assert configuration_hash({"a": 1, "b": 2}) == configuration_hash({"b": 2, "a": 1}) != configuration_hash({"a": 1})
