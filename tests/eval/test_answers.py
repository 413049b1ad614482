from pathlib import Path

import pytest

from fourfold.eval.log import AnswerLog, configuration_hash, model_fingerprint
from fourfold.prompts.errors import UserError


def test_a_cut_line_goes_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AnswerLog(path, {"model": "a"}) as log:
        log.add("1", answer="yes")
        log.add("2", answer="no\n\u2028é \ud800")  # line separators and half a surrogate pair stay on their line
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"sample": "3", "conf')
    with AnswerLog(path, {"model": "a"}) as log:
        assert set(log.done) == {"1", "2"} and path.read_bytes() == whole
        log.add("3", answer="maybe")
    with AnswerLog(path, {"model": "a"}) as log:
        assert [record["sample"] for record in log.done.values()] == ["1", "2", "3"]


def test_other_configurations_and_failures_are_asked_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AnswerLog(path, {"model": "a"}) as log:
        log.add("1", answer="yes")
        log.add("2", error="gone")
    with AnswerLog(path, {"model": "b"}) as log:
        assert not log.done
    with AnswerLog(path, {"model": "a"}) as log:
        assert set(log.done) == {"1"}


def test_logs_of_processes_that_shared_the_work(tmp_path: Path) -> None:
    for number in range(3):
        with AnswerLog(tmp_path / f"answers-{number}.jsonl", {}) as log:
            log.add(str(number), answer="x")
    with AnswerLog(tmp_path / "answers-0.jsonl", {}, tmp_path.glob("answers-*.jsonl")) as log:
        assert set(log.done) == {"0", "1", "2"}


def test_another_file_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"question_id": 1}\n')
    with pytest.raises(UserError, match="line 1 is no answer record"):
        AnswerLog(tmp_path / "log.jsonl", {})


def test_hash_ignores_order_and_sees_values() -> None:
    assert configuration_hash({"a": 1, "b": 2}) == configuration_hash({"b": 2, "a": 1}) != configuration_hash({"a": 1})


def test_fingerprint_is_of_content_without_the_story(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = model_fingerprint(tmp_path)
    (tmp_path / "bridge.json").write_text('{"date": "today"}')
    (tmp_path / "README.md").write_text("hello")
    assert model_fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert model_fingerprint(tmp_path) != before
