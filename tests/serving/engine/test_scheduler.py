"""Requests that share forward passes: nobody's answer may depend on who else asks."""

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fourfold.assistant import machine
from fourfold.serving.engine.engine import Completion, Engine, QueueFull, Request, Sampling
from tests.serving.engine.conversations import Reference, ask, conversations, load, picture, slow_down, user, wait_for


def mixed_requests() -> list[Request]:
    """All conversations, each greedy, drawn, penalised and with a stop string; of different lengths."""
    ways = [
        Sampling(max_tokens=25, logprobs=1),
        Sampling(max_tokens=31, temperature=1.0, top_p=0.9, seed=11, logprobs=1),
        Sampling(max_tokens=17, repetition_penalty=1.3, logprobs=1),
        Sampling(max_tokens=40, temperature=0.7, seed=5, stop=("e",), logprobs=1),
    ]
    return [Request(messages, sampling) for messages in conversations() for sampling in ways]


def assert_same(first: Completion, second: Completion) -> None:
    assert first.token_ids == second.token_ids
    assert (first.text, first.finish_reason) == (second.text, second.finish_reason)
    assert first.logprobs is not None
    assert second.logprobs is not None
    for left, right in zip(first.logprobs, second.logprobs, strict=True):
        assert left.logprob == pytest.approx(right.logprob, abs=1e-4)


def test_an_answer_does_not_depend_on_who_shares_the_batch(checkpoint: Path) -> None:
    requests = mixed_requests()
    with load(checkpoint) as alone:
        expected = [alone.generate([request])[0] for request in requests]
        alone_steps = alone.stats.steps
    with load(checkpoint) as together:
        for completion, wanted in zip(together.generate(requests), expected, strict=True):
            assert_same(completion, wanted)
        assert together.stats.steps < alone_steps / 4  # they did share


def test_an_answer_does_not_depend_on_when_others_join(checkpoint: Path) -> None:
    requests = mixed_requests()
    with load(checkpoint) as alone:
        expected = [alone.generate([request])[0] for request in requests]
    with load(checkpoint, max_num_seqs=3) as busy:
        results: dict[int, Completion] = {}

        def ask_later(number: int) -> None:
            time.sleep(0.01 * (number * 7 % 5))
            results[number] = busy.submit(requests[number]).result()

        threads = [threading.Thread(target=ask_later, args=(number,)) for number in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, wanted in enumerate(expected):
            assert_same(results[number], wanted)


def test_users_with_the_same_words_and_different_images_never_mix(fresh: Engine, reference: Reference) -> None:
    chats = [[user("what is in the picture?", [picture(number)])] for number in range(6)]
    expected = [reference.greedy(messages, 12) for messages in chats]
    assert len({tuple(ids) for ids in expected}) == 6
    for _ in range(3):  # at once, then out of the caches
        completions = fresh.generate([Request(messages, Sampling(max_tokens=12)) for messages in chats])
        assert [completion.token_ids for completion in completions] == expected
    assert [ask(fresh, messages, max_tokens=12).token_ids for messages in reversed(chats)] == expected[::-1]
    assert fresh.stats.images_encoded == 6


def test_a_short_question_does_not_wait_for_a_long_answer(fresh: Engine) -> None:
    asked, ended = threading.Event(), threading.Event()
    long = fresh.submit(Request(conversations()[0], Sampling(max_tokens=900)), lambda piece: asked.wait(20))
    seen: list[int] = []

    def listen(piece: Any) -> None:
        seen.append(len(long.token_ids))
        if piece.completion is not None:
            ended.set()

    fresh.submit(Request(conversations()[2], Sampling(max_tokens=3)), listen)
    asked.set()
    assert ended.wait(20)
    assert seen[-1] < 10
    long.cancel()


def test_a_long_prompt_is_read_in_pieces_while_others_go_on(fresh: Engine, reference: Reference) -> None:
    words = [user("the quick brown fox jumps over the lazy dog. " * 70, [picture(0), picture(1)])]
    started, asked, ended = threading.Event(), threading.Event(), threading.Event()

    def listen(piece: Any) -> None:
        started.set()
        asked.wait(20)
        if piece.completion is not None:
            ended.set()

    running = fresh.submit(Request(conversations()[2], Sampling(max_tokens=300)), listen)
    assert started.wait(20)
    seen: list[int] = []
    long = fresh.submit(Request(words, Sampling(max_tokens=8)), lambda piece: seen.append(len(running.token_ids)))
    asked.set()
    assert ended.wait(20)
    assert len(long.prompt.ids) > 2 * 256  # what a step reads at most on a CPU
    assert long.token_ids == reference.greedy(words, 8)
    assert seen[0] >= 3  # one token before it came, one in each of the steps that read it
    assert running.token_ids == reference.greedy(conversations()[2], 300)


def test_several_answers_to_one_question_share_its_reading(fresh: Engine) -> None:
    requests = [Request(conversations()[0], Sampling(max_tokens=8, temperature=1.0, seed=seed)) for seed in range(5)]
    completions = fresh.generate(requests)
    assert (
        sorted(completion.cached_tokens for completion in completions) == [0] + [completions[0].prompt_tokens - 2] * 4
    )
    assert fresh.stats.images_encoded == 1
    assert len({tuple(completion.token_ids) for completion in completions}) > 1


def test_questions_about_a_new_picture_asked_at_once_read_it_once(fresh: Engine, reference: Reference) -> None:
    words = ("what is in the picture?", "describe it.", "is it red?", "how are you?", "yes", "0", "hello world", "car")
    asked = [[user(f"describe this image in detail. {text}", [picture(0)])] for text in words]
    completions = fresh.generate([Request(messages, Sampling(max_tokens=1)) for messages in asked])
    assert fresh.stats.images_encoded == 1
    cached = sorted(completion.cached_tokens for completion in completions)
    assert cached[0] == 0 and cached[1] >= 4  # one has read its four tokens, nobody else
    assert fresh.stats.cached_prompt_tokens == sum(cached)
    # What they share is kept once.
    prompts = [fresh.prompt_tokens(Request(messages)) for messages in asked]
    beginnings = {tuple(ids[:end]) for ids in prompts for end in range(1, len(ids) + 1)}
    kept = fresh._scheduler.prefix_cache.nbytes / fresh.model_runner.kv_cache.token_bytes
    assert kept == len(beginnings) <= sum(map(len, prompts)) - sum(cached)
    for messages in asked:
        assert ask(fresh, messages, max_tokens=4).token_ids == reference.greedy(messages, 4)


def test_who_waits_for_anothers_reading_holds_nobody_up(fresh: Engine, reference: Reference) -> None:
    started, asked = threading.Event(), threading.Event()
    begun: list[int] = []

    def block(piece: Any) -> None:
        started.set()
        asked.wait(20)

    running = fresh.submit(Request(conversations()[2], Sampling(max_tokens=50)), block)
    assert started.wait(20)
    about = [user(f"describe this image in detail. {text}", [picture(4)]) for text in ("yes", "is it red?")]
    chats = [[about[0]], [about[1]], [user("hello")]]
    sequences = [
        fresh.submit(Request(messages, Sampling(max_tokens=1)), lambda piece, number=number: begun.append(number))
        for number, messages in enumerate(chats)
    ]
    asked.set()
    wait_for(lambda: len(begun) == 3)
    running.cancel()
    assert begun == [0, 2, 1]
    assert [sequence.token_ids for sequence in sequences] == [reference.greedy(messages, 1) for messages in chats]
    assert sequences[1].cached_tokens >= 8


def test_who_asks_first_gets_the_first_piece_first(checkpoint: Path) -> None:
    people, rows = 40, 4
    begun: list[int] = []

    def listen(number: int, piece: Any) -> None:
        if number not in begun:
            begun.append(number)

    with load(checkpoint, max_num_seqs=rows) as crowded:
        # Long ones and short ones, with pictures and without, some of which read what others are reading.
        asked = [
            Request(conversations()[number * 7 % 4], Sampling(max_tokens=number % 5 + 1)) for number in range(people)
        ]
        sequences = [crowded.submit(request, partial(listen, number)) for number, request in enumerate(asked)]
        wait_for(lambda: crowded.stats.finished == people)
        assert all(len(sequence.token_ids) == number % 5 + 1 for number, sequence in enumerate(sequences))
    assert max(abs(place - number) for place, number in enumerate(begun)) < rows  # those of one step are one


def test_an_answer_is_read_ahead_only_until_something_else_is_to_be_done(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, pieces, told = fresh.model_runner.step, list[int](), list[int]()
    reading, asked = threading.Event(), threading.Event()

    def wait(inputs: Any, lora_id: int) -> Any:
        if not inputs[0].keep:  # no token is drawn
            pieces.append(inputs[0].count)
            reading.set()
            asked.wait(20)
        return step(inputs, lora_id)

    monkeypatch.setattr(fresh.model_runner, "step", wait)
    fresh.generate([Request(conversations()[2], Sampling(max_tokens=900), forced_answer="the car is red. " * 60)])
    assert reading.wait(20)
    other = threading.Thread(target=lambda: fresh._scheduler.call(lambda: told.extend(pieces)))
    other.start()
    wait_for(lambda: fresh._scheduler._calls)
    asked.set()
    other.join(20)
    assert told == [64] and fresh.stats.completion_tokens > 3 * 64


def test_a_full_queue_refuses(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch)
    with load(checkpoint, max_num_seqs=1, max_waiting=2) as small:
        request = Request(conversations()[0], Sampling(max_tokens=900))
        running = small.submit(request)
        wait_for(lambda: small.stats.running == 1)
        waiting = [small.submit(request) for _ in range(2)]
        with pytest.raises(QueueFull):
            small.submit(request)
        for sequence in [running, *waiting]:
            sequence.cancel()
        assert {sequence.result().finish_reason for sequence in [running, *waiting]} == {"cancelled"}
        assert small.submit(Request(conversations()[2], Sampling(max_tokens=1))).result().finish_reason == "length"


def test_never_more_rows_than_allowed(checkpoint: Path) -> None:
    with load(checkpoint, max_num_seqs=2) as small:
        sequences = [small.submit(request) for request in mixed_requests()[:8]]
        seen = set()
        while any(not sequence.token_ids or small.stats.waiting for sequence in sequences):
            seen.add(small.stats.running)
            time.sleep(0.001)
        for sequence in sequences:
            sequence.result()
        assert max(seen) <= 2


def test_rows_wait_for_room_in_the_kv_cache(
    checkpoint: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: (2**30, 0))  # the least there can be: one row of the whole context
    with load(checkpoint) as small:
        long = Request(conversations()[2], Sampling(max_tokens=900))
        short = Request(conversations()[0], Sampling(max_tokens=10))
        completions = small.generate([short, long, short, short])
        kv_cache = small.model_runner.kv_cache
        assert kv_cache.nbytes <= 1024 * kv_cache.token_bytes
        assert completions[1].completion_tokens == 900
        assert completions[3].token_ids == completions[0].token_ids == reference.greedy(short.messages, 10)


def test_cancelling_one_leaves_the_others_as_they_were(fresh: Engine) -> None:
    requests = [Request(messages, Sampling(max_tokens=120, logprobs=0)) for messages in conversations()]
    expected = [fresh.generate([request])[0] for request in requests]
    submitted, ended = threading.Event(), threading.Event()
    last: list[Any] = []

    def cancel_at_once(piece: Any) -> None:
        submitted.wait(20)
        sequences[1].cancel()
        if piece.completion is not None:
            last.append(piece)
            ended.set()

    sequences = [fresh.submit(request, cancel_at_once if n == 1 else None) for n, request in enumerate(requests)]
    submitted.set()
    assert ended.wait(20)
    assert last[0].finish_reason == "cancelled"
    for number in (0, 2, 3):
        assert_same(sequences[number].result(), expected[number])


def test_a_cancelled_request_never_begins(checkpoint: Path) -> None:
    with load(checkpoint, max_num_seqs=1) as small:
        running = small.submit(Request(conversations()[0], Sampling(max_tokens=900)))
        waiting = small.submit(Request(conversations()[1], Sampling(max_tokens=100)))
        waiting.cancel()
        assert waiting.result().completion_tokens == 0
        assert running.result().completion_tokens == 900


def test_what_goes_wrong_with_one_request_is_its_own(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(fresh, conversations()[2], max_tokens=50).token_ids
    running = fresh.submit(Request(conversations()[2], Sampling(max_tokens=50)))
    embed = fresh.model_runner.embed

    def fail_for_images(prompt: Any, start: int, lora_id: int) -> Any:
        if prompt.images:
            raise RuntimeError("no such luck")
        return embed(prompt, start, lora_id)

    monkeypatch.setattr(fresh.model_runner, "embed", fail_for_images)
    with pytest.raises(RuntimeError, match="no such luck"):
        ask(fresh, conversations()[0])
    assert running.result().token_ids == expected


def test_a_step_that_fails_ends_its_answers_and_the_engine_goes_on(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ask(fresh, conversations()[0], max_tokens=5).token_ids

    def fail(inputs: Any, lora_id: int) -> Any:
        raise MemoryError("out of memory")

    monkeypatch.setattr(fresh.model_runner, "step", fail)
    with pytest.raises(MemoryError):
        ask(fresh, conversations()[1])
    monkeypatch.undo()
    assert ask(fresh, conversations()[0], max_tokens=5).token_ids == expected
    assert fresh.stats.failed == 1


def test_a_listener_that_fails_stops_only_its_own_answer(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(monkeypatch)

    def listen(delta: Any) -> None:
        raise RuntimeError("the listener is gone")

    deaf = fresh.submit(Request(conversations()[0], Sampling(max_tokens=900)), listen)
    assert ask(fresh, conversations()[2], max_tokens=20).completion_tokens == 20
    wait_for(lambda: fresh.stats.running == 0)
    assert len(deaf.token_ids) < 900


def test_pieces_go_to_the_listener(fresh: Engine) -> None:
    pieces: list[Any] = []
    done = threading.Event()

    def listen(piece: Any) -> None:
        pieces.append(piece)
        if piece.completion is not None:
            done.set()

    fresh.submit(Request(conversations()[0], Sampling(max_tokens=6)), listen)
    assert done.wait(20)
    assert pieces[-1].completion.text == "".join(piece.text for piece in pieces)
    assert pieces[-1].completion.token_ids == ask(fresh, conversations()[0], max_tokens=6).token_ids


def test_scores_are_right_beside_running_answers(fresh: Engine) -> None:
    request = Request(conversations()[1])
    expected = fresh.score(request, ["yes", "the car is red."])
    reply = ask(fresh, conversations()[0], max_tokens=300).token_ids
    running = fresh.submit(Request(conversations()[0], Sampling(max_tokens=300)))
    next(iter(running))
    assert fresh.score(request, ["yes", "the car is red."]) == pytest.approx(expected, abs=1e-4)
    assert running.result().token_ids == reply


def test_the_counters_add_up(fresh: Engine) -> None:
    completions = fresh.generate(mixed_requests()[:6])
    wait_for(lambda: fresh.stats.running == 0)
    stats = fresh.stats
    assert (stats.requests, stats.finished, stats.failed, stats.cancelled) == (6, 6, 0, 0)
    assert stats.prompt_tokens == sum(completion.prompt_tokens for completion in completions)
    assert stats.cached_prompt_tokens == sum(completion.cached_tokens for completion in completions)
    assert stats.completion_tokens == sum(completion.completion_tokens for completion in completions)
