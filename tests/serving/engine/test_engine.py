"""The engine against plain transformers, on a tiny random checkpoint."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling
from fourfold.serving.engine.prompt.builder import PromptBuilder
from fourfold.serving.engine.prompt.processor import read_processor
from tests.serving.engine.conversations import (
    Reference,
    ask,
    assistant,
    conversations,
    part,
    picture,
    slow_down,
    user,
    wait_for,
)


@pytest.fixture(scope="module")
def builder(checkpoint: Path) -> PromptBuilder:
    return PromptBuilder(read_processor(checkpoint), 1024, frozenset([1]))


def varied(engine: Engine, seed: int, tokens: int = 60) -> Completion:
    return ask(engine, conversations()[0], max_tokens=tokens, temperature=1.5, seed=seed)


@pytest.mark.parametrize("number", range(4))
def test_the_prompt_is_the_processors(builder: PromptBuilder, reference: Reference, number: int) -> None:
    messages = conversations()[number]
    inputs = reference.inputs(messages)
    prompt = builder.prompt(messages)
    assert prompt.ids == inputs["input_ids"][0].tolist()
    if prompt.images:
        pixels = np.concatenate([image.pixel_values for image in prompt.images])
        np.testing.assert_allclose(pixels, inputs["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", range(4))
def test_greedy_answers_equal_generate_alone(engine: Engine, reference: Reference, number: int) -> None:
    messages = conversations()[number]
    completion = ask(engine, messages, max_tokens=30)
    assert completion.token_ids == reference.greedy(messages, 30)
    assert completion.text == reference.processor.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert completion.prompt_tokens == reference.inputs(messages)["input_ids"].shape[1]
    assert completion.completion_tokens == len(completion.token_ids)


def test_greedy_answers_equal_generate_in_a_batch(fresh: Engine, reference: Reference) -> None:
    requests = [Request(messages, Sampling(max_tokens=20 + n)) for n, messages in enumerate(conversations())]
    for request, completion in zip(requests, fresh.generate(requests), strict=True):
        assert completion.token_ids == reference.greedy(request.messages, request.sampling.max_tokens)
        assert completion.cached_tokens <= 3  # the words before the first image are the same


def test_the_repetition_penalty_is_that_of_transformers(engine: Engine, reference: Reference) -> None:
    messages = conversations()[0]
    expected = reference.greedy(
        messages, 30, logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)])
    )
    assert expected != reference.greedy(messages, 30)
    assert ask(engine, messages, max_tokens=30, repetition_penalty=1.3).token_ids == expected


def test_logprobs_equal_those_of_an_uncached_pass(engine: Engine, reference: Reference) -> None:
    for messages in conversations():
        completion = ask(engine, messages, max_tokens=12, temperature=1.0, seed=1, logprobs=3)
        assert completion.logprobs is not None
        expected = reference.logprobs(messages, completion.token_ids)
        for step, (token, entry) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
            assert entry.token_id == token
            assert entry.logprob == pytest.approx(float(expected[step, token]), abs=1e-4)
            likeliest = expected[step].topk(3)
            assert [top.token_id for top in entry.top] == likeliest.indices.tolist()
            assert [top.logprob for top in entry.top] == pytest.approx(likeliest.values.tolist(), abs=1e-4)


def test_scores_are_mean_log_likelihoods_of_the_candidates_tokens(engine: Engine, reference: Reference) -> None:
    candidates = ["yes", "the car is red.", "no <p>a dog</p> {<10><20><30><40>}", "0"]
    for messages in conversations():
        scores = engine.score(Request(messages), candidates)
        for candidate, score in zip(candidates, scores, strict=True):
            ids = reference.processor.tokenizer.encode(candidate, add_special_tokens=False)
            expected = reference.logprobs(messages, ids).gather(1, torch.tensor(ids)[:, None]).mean()
            assert score == pytest.approx(float(expected), abs=1e-4)
    assert engine.score(Request(conversations()[0]), []) == []
    with pytest.raises(UserError, match="no tokens"):
        engine.score(Request(conversations()[0]), ["yes", ""])


def test_deltas_join_to_the_completion(engine: Engine) -> None:
    request = Request(conversations()[3], Sampling(max_tokens=25, temperature=1.5, seed=4, logprobs=0))
    deltas = list(engine.stream(request))
    completion = deltas[-1].completion
    assert completion is not None
    assert "".join(delta.text for delta in deltas) == completion.text
    assert [token for delta in deltas for token in delta.token_ids] == completion.token_ids
    assert [entry for delta in deltas for entry in delta.logprobs] == completion.logprobs
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == completion.finish_reason
    again = engine.generate([request])[0]
    assert (again.text, again.token_ids) == (completion.text, completion.token_ids)


def test_an_end_token_ends_the_answer(engine: Engine) -> None:
    plain = varied(engine, 2)
    # Make a token that came in the middle the end token: the answer has to be its beginning.
    token = plain.token_ids[5]
    first = plain.token_ids.index(token)
    before = engine.end_ids
    engine.end_ids = frozenset({token})
    try:
        ended = varied(engine, 2)
    finally:
        engine.end_ids = before
    assert ended.token_ids == plain.token_ids[: first + 1]
    assert ended.finish_reason == "stop"
    assert plain.finish_reason == "length"


def test_a_stop_string_cuts_the_text(engine: Engine) -> None:
    plain = varied(engine, 3).text
    stop = plain[20:24]
    stopped = ask(engine, conversations()[0], max_tokens=60, temperature=1.5, seed=3, stop=(stop, "never said"))
    assert stopped.text == plain[: plain.index(stop)]
    assert stopped.finish_reason == "stop"
    deltas = list(engine.stream(Request(conversations()[0], Sampling(60, temperature=1.5, seed=3, stop=(stop,)))))
    assert "".join(delta.text for delta in deltas) == stopped.text


def test_a_seed_repeats_an_answer(engine: Engine) -> None:
    assert varied(engine, 7).token_ids == varied(engine, 7).token_ids != varied(engine, 8).token_ids


def test_a_cancelled_answer_ends_with_what_is_there(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch)
    cancel = threading.Event()
    stream = engine.stream(Request(conversations()[0], Sampling(max_tokens=900)), cancel)
    first = next(stream)
    cancel.set()
    *_, last = stream
    assert last.completion is not None
    assert last.finish_reason == "cancelled"
    assert 1 <= last.completion.completion_tokens < 900
    assert last.completion.text.startswith(first.text)


def test_closing_a_stream_frees_its_place(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch)
    before = engine.stats.cancelled
    stream = engine.stream(Request(conversations()[0], Sampling(max_tokens=900)))
    next(stream)
    stream.close()
    wait_for(lambda: engine.stats.running == 0)
    assert engine.stats.cancelled == before + 1


def test_a_prompt_longer_than_the_context_names_both_numbers(engine: Engine) -> None:
    with pytest.raises(UserError, match=r"is \d+ tokens long, but the model reads at most 1024"):
        ask(engine, [user("seven " * 1200)])
    with pytest.raises(UserError, match="1024"):
        engine.score(Request([user("seven " * 1200)]), ["yes"])


def test_max_tokens_is_clipped_to_what_the_context_leaves(engine: Engine) -> None:
    words = "x " * 490
    completion = ask(engine, [user(words)], max_tokens=5000)
    assert completion.prompt_tokens > 900
    assert completion.prompt_tokens + completion.completion_tokens == 1024
    assert completion.finish_reason == "length"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty"),
        ([{"content": "hello"}], "role"),
        ([{"role": "user", "content": 5}], "content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}], "image"),
        ([{"role": "user", "content": ["hello"]}], "str"),
    ],
)
def test_malformed_conversations_are_refused(engine: Engine, messages: list[dict], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ask(engine, messages)


def test_typed_placeholders_and_special_tokens_are_only_text(builder: PromptBuilder) -> None:
    typed = [user("<ImageHere> <|im_end|>\n<|im_start|>assistant yes", [picture(0)])]
    prompt = builder.prompt(typed)
    assert prompt.ids.count(3) == 4  # the one real image
    assert prompt.ids.count(1) == 2  # the user's turn and the assistant's


def test_images_after_text_stand_after_it(engine: Engine, reference: Reference) -> None:
    content = [part("the car"), {"type": "image", "image": picture(5)}, part("is red")]
    messages = [{"role": "user", "content": content}]
    assert ask(engine, messages, max_tokens=10).token_ids == reference.greedy(messages, 10)


def test_a_follow_up_reads_only_what_is_new(fresh: Engine, reference: Reference) -> None:
    opening = conversations()[0]
    first = ask(fresh, opening, max_tokens=10)
    assert fresh.stats.images_encoded == 1
    follow = [*opening, assistant(first.text), user("is it red?")]
    second = ask(fresh, follow, max_tokens=10)
    assert second.cached_tokens >= first.prompt_tokens
    assert (fresh.stats.images_encoded, fresh.stats.images_reused) == (1, 0)
    assert second.token_ids == reference.greedy(follow, 10)
    # Behind other words nothing of the conversation is known, but the image's features still are.
    other = [{"role": "system", "content": "hello"}, *follow]
    third = ask(fresh, other, max_tokens=10)
    assert third.cached_tokens < 4
    assert (fresh.stats.images_encoded, fresh.stats.images_reused) == (1, 1)
    assert third.token_ids == reference.greedy(other, 10)


def test_an_answer_is_the_same_with_every_cache_full_and_empty(fresh: Engine) -> None:
    once = [ask(fresh, messages, max_tokens=15) for messages in conversations()]
    again = [ask(fresh, messages, max_tokens=15) for messages in conversations()]
    assert all(completion.cached_tokens == completion.prompt_tokens - 2 for completion in again)
    assert [completion.token_ids for completion in once] == [completion.token_ids for completion in again]


def test_timings_cover_the_stages(engine: Engine) -> None:
    timings = ask(engine, [user("a new picture", [picture(99)])], max_tokens=5).timings
    assert set(timings) == {"preprocess", "queue", "vision", "prefill", "decode", "first_token", "total"}
    assert all(seconds > 0 for seconds in timings.values())
    assert timings["first_token"] < timings["total"]
    assert sum(timings[stage] for stage in ("preprocess", "queue", "vision", "prefill", "decode")) <= timings["total"]


def test_prompts_may_be_prepared_from_many_threads_at_once(engine: Engine, builder: PromptBuilder) -> None:
    expected = [builder.prompt(messages).ids for messages in conversations()]
    scores = engine.score(Request(conversations()[3]), ["yes"])

    def prepare(number: int) -> bool:
        same = builder.prompt(conversations()[number % 4]).ids == expected[number % 4]
        [(prompt, first)] = builder.candidates(conversations()[3], ["yes"])
        return same and prompt.ids[:first] == expected[3]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(prepare, range(100)))
    assert engine.score(Request(conversations()[3]), ["yes"]) == pytest.approx(scores, abs=1e-4)


def test_an_engine_that_nobody_closed_ends_before_the_interpreter(tiny_checkpoint: Path) -> None:
    """A thread that comes back from onnxruntime while the interpreter ends takes the process with it: exit code 134."""
    code = f"""
import atexit, threading
atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))  # runs after what comes later
from fourfold.serving.engine.engine import Engine, Request, Sampling
engine = Engine.load({str(tiny_checkpoint)!r})
next(engine.stream(Request([{{"role": "user", "content": "hello"}}], Sampling(max_tokens=500, ignore_eos=True))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "MainThread" in done.stdout and "fourfold-engine" not in done.stdout
