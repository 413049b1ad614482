"""Endpoints as they are: their addresses, what they refuse, what they think, and what they only remember."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fourfold.eval.endpoint import EndpointModel, addresses, served_model
from fourfold.eval.log import EvalLog
from fourfold.eval.model import Output
from fourfold.eval.run import run
from fourfold.eval.task import Sample, Task
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint


def ask(tmp_path: Path, url: str, count: int = 5, candidates: Sequence[str] = ()) -> list[Output]:
    samples = [Sample(str(number), f"question {number}", candidates=tuple(candidates)) for number in range(count)]
    with EvalLog(tmp_path / "answers.jsonl", {"test": 1}) as log:
        outputs = run(Task("asking", samples, max_tokens=7), EndpointModel([url]), log)
    return [outputs[sample.id] for sample in samples]


# What they refuse

MESSAGES = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
    "temperature": "Unsupported value: 'temperature' does not support 0 with this model. Only the default is.",
    "seed": "body.seed: Extra inputs are not permitted",
    "memory": "Unrecognized request argument supplied: memory",
    "top_logprobs": "top_logprobs must be at most 5",
}


@pytest.mark.parametrize("fields", [["max_tokens"], ["temperature"], ["seed"], ["memory"], [*MESSAGES][:4]])
def test_what_is_refused_is_asked_the_other_way(tmp_path: Path, fields: list[str]) -> None:
    with endpoint(Script(rejects={name: MESSAGES[name] for name in fields})) as script:
        outputs = ask(tmp_path, script.url)
        assert [output.text for output in outputs] == ["yes"] * 5
        last = script.bodies[-1]
        refused = sum(any(name in body for name in fields) for body in script.bodies)
    assert not set(fields) & set(last)
    expected = {"max_completion_tokens" if "max_tokens" in fields else "max_tokens": 7}
    expected |= {name: value for name, value in (("temperature", 0), ("seed", 0)) if name not in fields}
    assert {name: last[name] for name in expected} == expected
    assert refused <= 3 * len(fields)  # those under way at first; once known, it is known for the run
    told = sorted(set(fields) - {"memory"})
    assert outputs[0].fields.get("asked_without", []) == sorted(told)


def test_a_refusal_that_names_no_field_is_tried_bare_once(tmp_path: Path) -> None:
    with endpoint(Script(rejects={"seed": "invalid request"})) as script:
        assert [output.text for output in ask(tmp_path, script.url)] == ["yes"] * 5
        assert "seed" not in script.bodies[-1] and script.bodies[-1]["max_completion_tokens"] == 7


def test_fewer_alternatives_where_a_server_lists_fewer(tmp_path: Path) -> None:
    with endpoint(Script(rejects={"logprobs": "logprobs are not available"})) as script:
        outputs = ask(tmp_path, script.url, candidates=("yes", "no"))
        assert [(output.text, output.scores) for output in outputs] == [("yes", None)] * 5
        assert "logprobs" not in script.bodies[-1]


def test_a_refusal_common_to_all_stops_at_the_third_and_is_shown(tmp_path: Path) -> None:
    with endpoint(Script(rejects={"messages": "model 'x' takes no image, request 71"})) as script:
        with pytest.raises(UserError, match=r"refuses every question: .*takes no image.*nothing more was asked"):
            ask(tmp_path, script.url, count=50)
        assert script.requests <= 30  # a few questions, each asked in every way that could matter
        # No answer, but nothing lost: the same command asks again.
        script.rejects.clear()
        assert [output.text for output in ask(tmp_path, script.url, count=50)] == ["yes"] * 50


def test_refusals_of_some_questions_do_not_stop_a_run(tmp_path: Path) -> None:
    with endpoint(Script(refuse="question 1")) as script:  # 1 and 10 to 19
        outputs = ask(tmp_path, script.url, count=20)
        assert sum(output.error is not None for output in outputs) == 11
        # Asked again, only those are left, and all are refused: that is no news.
        again = ask(tmp_path, script.url, count=20)
    assert [output.error is None for output in again] == [output.error is None for output in outputs]


# Thoughts


def test_thoughts_are_kept_in_the_log_and_not_scored(tmp_path: Path) -> None:
    with endpoint(Script(answer="<think>no, no</think>yes", thought="looking")) as script:
        [output] = ask(tmp_path, script.url, count=1)
    assert (output.text, output.fields["thought"]) == ("yes", "looking\nno, no")
    assert "no, no" in (tmp_path / "answers.jsonl").read_text()


def test_half_an_emoji_ends_no_run(tmp_path: Path) -> None:
    body = (
        '{"id": "1", "object": "chat.completion", "created": 0, "model": "x", "choices": [{"index": 0, '
        '"finish_reason": "length", "message": {"role": "assistant", "content": "yes \\ud83d"}}]}'
    )
    with endpoint(Script(raw=("application/json", body))) as script:
        [output] = ask(tmp_path, script.url, count=1)
    assert output.text == "yes \ufffd"
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf-8")


# Addresses


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("https://example.org/v1beta/openai", "https://example.org/v1beta/openai"),
        ("https://example.org/api/v3", "https://example.org/api/v3"),
        ("https://example.org/api/v3/chat/completions", "https://example.org/api/v3"),
    ],
)
def test_an_address_is_taken_as_given(given: str, asked: str) -> None:
    assert addresses(given)[0] == asked


def test_no_address_is_a_sentence() -> None:
    with pytest.raises(UserError, match="'localhost:8000' is no address of an endpoint; it begins with http"):
        EndpointModel(["localhost:8000"]).identity  # noqa: B018


@pytest.mark.parametrize(("root", "given"), [("/v1beta/openai", "/v1beta/openai"), ("/proxy/v1", "/proxy"), ("", "")])
def test_where_the_api_is_found(tmp_path: Path, root: str, given: str) -> None:
    with endpoint(Script(root=root)) as script:
        assert served_model(script.url + given, "none") == "scripted"
        assert [output.text for output in ask(tmp_path, script.url + given)] == ["yes"] * 5


def test_remembered_answers_do_not_count(tmp_path: Path) -> None:
    with endpoint(Script(remembers="question 3")) as script:
        outputs = ask(tmp_path, script.url)
        assert all(body["memory"] is False for body in script.bodies)
    assert [output.text for output in outputs] == ["yes", "yes", "yes", None, "yes"]
    assert "correction-1" in (outputs[3].error or "")
