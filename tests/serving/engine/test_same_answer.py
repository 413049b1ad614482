"""One request has one answer, to the last bit: whatever was cached, however it was read, whoever shares the batch."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.serving.engine import threads as module
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling
from fourfold.serving.engine.loading import DtypeName
from fourfold.serving.engine.threads import threads
from tests.serving.engine.conversations import Messages, assistant, conversations, picture, user, wait_for

TOKENS = 12


@pytest.fixture(scope="module", params=["lively", pytest.param("mini", marks=pytest.mark.mini)])
def source(request: pytest.FixtureRequest, checkpoint: Path) -> Path:
    return checkpoint if request.param == "lively" else resolve_model("fourfold-mini")


@pytest.fixture(params=["int8", "float32"])
def engine(source: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A new one for every test, as after a start of the server."""
    with Engine.load(source, dtype=request.param, device="cpu") as loaded:
        yield loaded


def requests(messages: Messages, **sampling: Any) -> list[Request]:
    """Greedy and drawn."""
    ways: list[dict[str, Any]] = [{}, {"temperature": 1.0, "seed": 3}]
    return [Request(messages, Sampling(max_tokens=TOKENS, logprobs=2, **way, **sampling)) for way in ways]


def told(completion: Completion) -> tuple[object, ...]:
    """All that a client may compare."""
    return completion.text, completion.token_ids, completion.finish_reason, completion.logprobs


def questions() -> list[Messages]:
    words = ["[vqa] what is in the picture?", "[caption] describe this image", "[refer] give me the location of a dog"]
    return [*conversations(), *([user(text, [picture(8)])] for text in words)]


def test_asked_again(engine: Engine) -> None:
    for messages in questions():
        for request in requests(messages):
            first = engine.generate([request])[0]
            again = engine.generate([request])[0]
            assert again.cached_tokens == again.prompt_tokens - 2
            assert told(again) == told(first)


def test_after_other_questions_about_the_same_picture_and_among_them(engine: Engine) -> None:
    asked = [request for messages in questions() for request in requests(messages)]
    together = [told(completion) for completion in engine.generate(asked)]
    alone = [told(engine.generate([request])[0]) for request in reversed(asked)][::-1]
    assert together == alone


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_on_any_number_of_threads_also_where_it_changes_meanwhile(
    source: Path, dtype: DtypeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    asked = [request for messages in questions() for request in requests(messages)]

    def answers(now: Callable[[], int]) -> list[tuple[object, ...]]:
        monkeypatch.setattr(threads, "now", now)
        with Engine.load(source, dtype=dtype, device="cpu") as engine:
            return [told(completion) for completion in engine.generate(asked)]

    alone = answers(lambda: 1)
    assert answers(lambda: 2) == alone
    turn = itertools.cycle([1, 1, 2, 2, 2])
    assert answers(lambda: next(turn)) == alone


def test_a_follow_up_with_and_without_the_conversation_in_the_cache(engine: Engine) -> None:
    opening = [user("what is in the picture? " * 3, [picture(1)])]
    first = engine.generate(requests(opening))[1]
    follow = [*opening, assistant(first.text), user("is it red?")]
    asked = requests(follow)[0]
    at_once = engine.generate([asked])[0]
    assert first.prompt_tokens <= at_once.cached_tokens
    # Nothing of it is known once it has been forgotten.
    engine._scheduler.call(lambda: engine._scheduler.prefix_cache.forget(0))
    fresh = engine.generate([asked])[0]
    assert fresh.cached_tokens == 0 and told(fresh) == told(at_once)


def test_an_answer_is_read_in_a_quiet_moment_for_what_follows(engine: Engine) -> None:
    opening = [user("how are you?")]
    follow = [*opening, assistant("the car is red."), user("is it red?")]
    asked = requests(follow)[0]
    cold = engine.generate([asked])[0]
    engine._scheduler.call(lambda: engine._scheduler.prefix_cache.forget(0))
    first = engine.generate([Request(opening, forced_answer="the car is red.")])[0]
    known = first.prompt_tokens + first.completion_tokens
    wait_for(lambda: engine._scheduler.prefix_cache.nbytes >= known * engine.model_runner.kv_cache.token_bytes)
    warm = engine.generate([asked])[0]
    assert warm.cached_tokens >= known
    assert told(warm) == told(cold)
