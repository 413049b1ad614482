"""Continuous batching: one thread owns the model, and requests join and leave between its steps."""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fourfold.serving.engine.cache import shared_length
from fourfold.serving.engine.kv_cache import StepInput
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.prefix_cache import Prefix, PrefixCache
from fourfold.serving.engine.prompt.builder import Prompt
from fourfold.serving.engine.requests import EngineClosed, QueueFull
from fourfold.serving.engine.sampling.draw import draw_tokens
from fourfold.serving.engine.sampling.structured_outputs import GrammarError
from fourfold.serving.engine.sequence import Sequence
from fourfold.serving.engine.threads import threads
from fourfold.serving.engine.torch_backend.lora_manager import LoRAManager

T = TypeVar("T")
_LEAST_READ = 2
"""Tokens of a prompt that are read together at least: attention to several positions adds up in another order than to
one, and an answer must not depend on what was cached. What was drawn token by token is read again for the same reason
before it is kept."""
_WORTH_WAITING = 8
"""Tokens: for fewer a request does not wait for another one that is reading them. About what a step costs more."""
_QUIET = 0.1
"""Seconds without a request after which a finished answer is read, for a question that follows it."""
_READ_AHEAD = 64
"""Tokens of it that are read before looking whether anything else is to be done."""


@dataclass
class Stats:
    """What has happened since the engine was loaded: for metrics. Written by the scheduler's thread, read by anyone."""

    requests: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    images_encoded: int = 0
    images_reused: int = 0
    steps: int = 0
    running: int = 0
    waiting: int = 0


@dataclass(eq=False)
class _Row:
    """A request that holds a row of the KV cache; its row's number is its place in the scheduler's list."""

    sequence: Sequence
    embeds: np.ndarray | None  # of the part of the prompt that is still to be read


class Scheduler:
    """Owns the model's thread.

    Args:
        prefix_cache_bytes: of kept conversations at most.
        max_num_seqs: answers made at the same time.
        max_waiting: requests that may wait; more are refused.
        max_num_batched_tokens: new tokens of a step, beyond which a long prompt is read over several steps so that
            others go on meanwhile. A new image counts as its patches.
        suppress_tokens: never drawn.
    """

    def __init__(
        self,
        runner: ModelRunner,
        adapters: LoRAManager,
        *,
        prefix_cache_bytes: int,
        max_num_seqs: int,
        max_waiting: int,
        max_num_batched_tokens: int,
        suppress_tokens: Iterable[int],
    ) -> None:
        self.stats = Stats()
        self._runner = runner
        self._adapters = adapters
        self.prefix_cache = PrefixCache(prefix_cache_bytes)
        self._max_num_seqs, self._max_waiting = max_num_seqs, max_waiting
        self._max_num_batched_tokens = max_num_batched_tokens
        self._suppressed = sorted(suppress_tokens)
        self._rows: list[_Row] = []
        self._waiting: deque[Sequence] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._idle_evictions: set[int] = set()
        self._answered: deque[tuple[int, Prompt]] = deque(maxlen=max_num_seqs)
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fourfold-engine", daemon=True)
        self._thread.start()
        # The interpreter ends a thread that comes back from onnxruntime too late, and C++ then ends the process.
        atexit.register(self.close)

    def submit(self, sequence: Sequence, *, bounded: bool = True) -> None:
        """Queue an answer to be made.

        Raises:
            QueueFull: too many wait already (`bounded` only).
            EngineClosed: the engine is closed.
        """
        with self._changed:
            if self._closing:
                raise EngineClosed("the engine is closed")
            if bounded and len(self._waiting) >= self._max_waiting:
                raise QueueFull(f"{len(self._waiting)} requests wait already; try again later")
            self._waiting.append(sequence)
            self.stats.requests += 1
            self.stats.waiting = len(self._waiting)
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the model's thread between two steps, and return what it returns."""
        future: Future[T] = Future()
        with self._changed:
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._calls.append((function, future))
            self._changed.notify()
        return future.result()

    def evict_when_idle(self, lora_id: int) -> None:
        """Have an adapter deleted as soon as no running or waiting answer needs it."""
        with self._changed:
            self._idle_evictions.add(lora_id)
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its step; answers not ready fail with EngineClosed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)

    # What follows runs on the model's thread.

    def _run(self) -> None:
        while self._wait():
            self._answer_calls()
            try:
                if self._answered and not (self._rows or self._waiting):
                    with threads.unwatched():
                        self._read_ahead()
                self._drop_cancelled()
                self._evict_idle()
                self._admit()
                self.stats.running = len(self._rows)
                self._step()
                self.stats.running = len(self._rows)
            except Exception as error:  # out of memory, say: it is this batch's end, not the engine's
                self._fail_rows(error)
        self._fail_all(EngineClosed("the engine was closed"))

    def _wait(self) -> bool:
        """Until there is something to do; False where that is to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._rows or self._waiting or self._calls or self._idle_evictions,
                timeout=_QUIET if self._answered else None,
            )
            return not self._closing

    def _answer_calls(self) -> None:
        for _ in range(len(self._calls)):
            function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def _drop_cancelled(self) -> None:
        gone = []
        for row in [row for row in self._rows if row.sequence.cancelled]:
            self._leave(row)
            gone.append(row.sequence)
        with self._changed:
            gone += [sequence for sequence in self._waiting if sequence.cancelled]
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.cancelled)
            self.stats.waiting = len(self._waiting)
        for sequence in gone:
            sequence.finish("cancelled")
        self.stats.cancelled += len(gone)

    def _evict_idle(self) -> None:
        with self._changed:
            needed = {row.sequence.lora_id for row in self._rows} | {waiting.lora_id for waiting in self._waiting}
            gone = self._idle_evictions - needed
            self._idle_evictions &= needed
        for lora_id in gone:
            self._answered = deque(
                (pair for pair in self._answered if pair[0] != lora_id), maxlen=self._answered.maxlen
            )
            self.prefix_cache.forget(lora_id)
            self._adapters.delete(lora_id)

    def _admit(self) -> None:
        """Give rows to waiting requests, first come first served, until a step's worth of new tokens is gathered."""
        gathered = sum(len(row.embeds) for row in self._rows if row.embeds is not None)
        for sequence in list(self._waiting):
            if len(self._rows) >= self._max_num_seqs or gathered >= self._max_num_batched_tokens:
                break
            known = self.prefix_cache.longest(sequence.lora_id, sequence.prompt.keys[:-_LEAST_READ])
            if self._worth_waiting(sequence, known.length):
                continue
            row = _Row(sequence, None)
            encoded = self._runner.images_encoded
            try:
                if not self._runner.kv_cache.admit(len(sequence.prompt.ids) + sequence.sampling.max_tokens):
                    break
                self._rows.append(row)
                gathered += self._begin(row, known)
            except Exception as error:  # of this request alone
                if row in self._rows:
                    self._leave(row)
                sequence.fail(error)
                self.stats.failed += 1
            gathered += (self._runner.images_encoded - encoded) * self._runner.patches
            with self._changed:
                self._waiting.remove(sequence)
                self.stats.waiting = len(self._waiting)

    def _begin(self, row: _Row, known: Prefix) -> int:
        """Fill a new row with what is known of its prompt, and embed the rest.

        That is at least the last token, whose logits are wanted, and the one before. Returns how many are to be read.
        """
        sequence = row.sequence
        started = time.perf_counter()
        sequence.timings["queue"] = started - sequence.queued
        for part in known.parts:
            self._runner.kv_cache.append(len(self._rows) - 1, part)
        sequence.cached_tokens = known.length
        self._adapters.use(sequence.lora_id)
        row.embeds = self._runner.embed(sequence.prompt, known.length, sequence.lora_id)
        self.stats.images_encoded, self.stats.images_reused = self._runner.images_encoded, self._runner.images_reused
        sequence.timings["vision"] = time.perf_counter() - started
        self.stats.prompt_tokens += len(sequence.prompt.ids)
        self.stats.cached_prompt_tokens += known.length
        return len(row.embeds)

    def _worth_waiting(self, sequence: Sequence, common: int) -> bool:
        """Whether another row is just reading what this request would have to read again.

        It costs no time: that row's tokens are read before this one's in any case.
        """
        return any(
            shared_length(row.sequence.prompt.keys, sequence.prompt.keys) - common >= _WORTH_WAITING
            for row in self._rows
            if row.embeds is not None and row.sequence.lora_id == sequence.lora_id
        )

    def _step(self) -> None:
        """One forward pass for the rows of each adapter, and the tokens that come of it."""
        for lora_id in sorted({row.sequence.lora_id for row in self._rows}):
            self._step_rows(lora_id, [pair for pair in enumerate(self._rows) if pair[1].sequence.lora_id == lora_id])
            self.stats.steps += 1

    def _step_rows(self, lora_id: int, rows: list[tuple[int, _Row]]) -> None:
        left = self._max_num_batched_tokens
        inputs: list[tuple[_Row, StepInput]] = []
        for number, row in rows:
            if row.embeds is None:
                inputs.append((row, StepInput(number, token=row.sequence.token_ids[-1])))
            elif chunk_length := _chunk_length(len(row.embeds), left):
                chunk = row.embeds[:chunk_length]
                left -= chunk_length
                inputs.append((row, StepInput(number, chunk, keep=int(len(chunk) == len(row.embeds)))))
        inputs.sort(key=lambda pair: pair[1].count > 1)
        started = time.perf_counter()
        self._adapters.use(lora_id)
        logits = self._runner.step([entry for _, entry in inputs], lora_id)
        drawing = [row for row, entry in inputs if entry.keep]
        samplers = [row.sequence.sampler for row in drawing]
        tokens = draw_tokens(logits, samplers, self._suppressed) if drawing else []
        elapsed = time.perf_counter() - started
        for row, entry in inputs:
            row.sequence.timings["decode" if row.embeds is None else "prefill"] += elapsed
            if row.embeds is not None:
                row.embeds = None if entry.keep else row.embeds[entry.count :]
                if entry.keep:
                    self._keep_prefix(row)
        for row, token, scores in zip(drawing, tokens, logits, strict=True):
            if isinstance(token, GrammarError):
                row.sequence.fail(token)
                self._leave(row)
                self.stats.failed += 1
                continue
            done = row.sequence.take(token, scores)
            # An answer that is known already is said at once: the model would only read what it is told to say.
            while not done and row.sequence.is_known and not row.sequence.cancelled:
                self.stats.completion_tokens += 1
                done = row.sequence.take(token, scores)
            self.stats.completion_tokens += 1
            if done:
                self._leave(row)
                self.stats.finished += 1
                prompt, drawn = row.sequence.prompt, row.sequence.token_ids
                self._answered.append((lora_id, Prompt([*prompt.ids, *drawn], [*prompt.keys, *drawn], [])))

    def _keep_prefix(self, row: _Row) -> None:
        """Keep the keys and values of a row's prompt for requests that begin alike."""
        read = partial(self._runner.kv_cache.read, self._rows.index(row))
        self.prefix_cache.put(row.sequence.lora_id, row.sequence.prompt.keys, read)

    def _read_ahead(self) -> None:
        """Read the last answer as part of the prompt that it will be of a question which follows it."""
        lora_id, prompt = self._answered.pop()
        known = self.prefix_cache.longest(lora_id, prompt.keys)
        left = prompt.keys[known.length :]
        if not known.length or len(left) < _LEAST_READ or any(isinstance(key, bytes) for key in left):
            return  # nothing to gain, or forgotten with its images
        if not self._runner.kv_cache.admit(len(prompt.ids)):
            return
        kv_cache, row = self._runner.kv_cache, len(self._runner.kv_cache.lengths) - 1
        try:
            for part in known.parts:
                kv_cache.append(row, part)
            self._adapters.use(lora_id)
            embeds = self._runner.embed(prompt, known.length, lora_id)
            while len(embeds) and not (self._waiting or self._calls or self._closing):
                chunk = embeds[: _chunk_length(len(embeds), _READ_AHEAD)]
                self._runner.step([StepInput(row, chunk, keep=0)], lora_id)
                embeds = embeds[len(chunk) :]
            self.prefix_cache.put(lora_id, prompt.keys[: kv_cache.lengths[row]], partial(kv_cache.read, row))
        finally:
            kv_cache.remove(row)

    def _leave(self, row: _Row) -> None:
        """Take a row out of the batch; its last place goes to the last row, as in the KV cache."""
        number = self._rows.index(row)
        self._runner.kv_cache.remove(number)
        last = self._rows.pop()
        if number < len(self._rows):
            self._rows[number] = last

    def _fail_rows(self, error: Exception) -> None:
        """End every answer in the batch with an error; those that wait get their turn."""
        for row in list(self._rows):
            row.sequence.fail(error)
            self._leave(row)
            self.stats.failed += 1

    def _fail_all(self, error: Exception) -> None:
        self._fail_rows(error)
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
            calls, self._calls = list(self._calls), deque()
        for sequence in waiting:
            sequence.fail(error)
            self.stats.failed += 1
        for _, future in calls:
            future.set_exception(error)


def _chunk_length(unread: int, left: int) -> int:
    """How much of a prompt to read in a step that has room for `left` tokens, so that no token is ever read alone."""
    length = min(unread, left)
    if unread - length == 1:
        length -= 1
    return length if length >= _LEAST_READ or unread == 1 else 0
