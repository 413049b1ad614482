"""Continuous batching: one thread owns the model, and requests join and leave between its steps."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from fourfold.serving.engine.cache import Prefix, PrefixCache, PromptKey, shared_length
from fourfold.serving.engine.model_runner import ModelRunner, StepInput
from fourfold.serving.engine.requests import EngineClosed, QueueFull
from fourfold.serving.engine.sampling import draw_tokens
from fourfold.serving.engine.sequence import Generation


class AdapterSwitch(Protocol):
    """What the scheduler wants of the adapters."""

    def use(self, serial: int) -> None:
        """Make the next forward passes go through this adapter; 0 for none."""

    def delete(self, serial: int) -> None:
        """Free an adapter that nothing uses any more."""


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

    generation: Generation
    embeds: torch.Tensor | None  # of the part of the prompt that is still to be read

    @property
    def keys(self) -> list[PromptKey]:
        """What the prefix cache compares, the answer so far included."""
        return [*self.generation.prompt.keys, *self.generation.token_ids]


class Scheduler:
    """Owns the model's thread.

    Args:
        runner: the model.
        adapters: switches adapters.
        prefix_bytes: of kept conversations at most.
        max_rows: answers made at the same time.
        max_waiting: requests that may wait; more are refused.
        step_tokens: new tokens of a step, beyond which a long prompt is read over several steps so that others go on
            meanwhile. A new image counts as its patches.
        threads: of torch, for this thread.
    """

    def __init__(
        self,
        runner: ModelRunner,
        adapters: AdapterSwitch,
        *,
        prefix_bytes: int,
        max_rows: int,
        max_waiting: int,
        step_tokens: int,
        threads: int,
    ) -> None:
        self.stats = Stats()
        self._runner = runner
        self._adapters = adapters
        self.prefixes = PrefixCache(prefix_bytes)
        self._max_rows, self._max_waiting, self._step_tokens = max_rows, max_waiting, step_tokens
        self._threads = threads
        self._rows: list[_Row] = []
        self._waiting: deque[Generation] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._retiring: set[int] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fourfold-engine", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation, *, bounded: bool = True) -> None:
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
            self._waiting.append(generation)
            self.stats.requests += 1
            self.stats.waiting = len(self._waiting)
            self._changed.notify()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the model's thread between two steps, and return what it returns."""
        future: Future = Future()
        with self._changed:
            if self._closing:
                raise EngineClosed("the engine is closed")
            self._calls.append((function, future))
            self._changed.notify()
        return future.result()

    def retire(self, adapter: int) -> None:
        """Have an adapter deleted as soon as no running or waiting answer needs it."""
        with self._changed:
            self._retiring.add(adapter)
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its step; answers not ready fail with EngineClosed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # What follows runs on the model's thread.

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while self._wait():
                for function, future in self._take_calls():
                    try:
                        future.set_result(function())
                    except Exception as error:
                        future.set_exception(error)
                try:
                    self._drop_cancelled()
                    self._delete_retired()
                    self._admit()
                    self.stats.running = len(self._rows)
                    self._step()
                    self.stats.running = len(self._rows)
                except Exception as error:  # out of memory, say: it is this batch's end, not the engine's
                    self._fail_rows(error)
            self._fail_all(EngineClosed("the engine was closed"))

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(self._has_work)
            return not self._closing

    def _has_work(self) -> bool:
        return bool(self._closing or self._rows or self._waiting or self._calls or self._retiring)

    def _take_calls(self) -> list[tuple[Callable[[], Any], Future]]:
        with self._changed:
            calls, self._calls = list(self._calls), deque()
            return calls

    def _drop_cancelled(self) -> None:
        gone = []
        for row in [row for row in self._rows if row.generation.cancelled]:
            self._leave(row)
            gone.append(row.generation)
        with self._changed:
            gone += [generation for generation in self._waiting if generation.cancelled]
            self._waiting = deque(generation for generation in self._waiting if not generation.cancelled)
            self.stats.waiting = len(self._waiting)
        for generation in gone:
            generation.finish("cancelled")
        self.stats.cancelled += len(gone)

    def _delete_retired(self) -> None:
        with self._changed:
            needed = {row.generation.adapter for row in self._rows} | {waiting.adapter for waiting in self._waiting}
            gone = self._retiring - needed
            self._retiring &= needed
        for adapter in gone:
            self.prefixes.forget(adapter)
            self._adapters.delete(adapter)

    def _admit(self) -> None:
        """Give rows to waiting requests, first come first served, until a step's worth of new tokens is gathered."""
        gathered = sum(len(row.embeds) for row in self._rows if row.embeds is not None)
        while self._waiting and len(self._rows) < self._max_rows and gathered < self._step_tokens:
            generation = self._waiting[0]
            known, common = self.prefixes.longest(generation.adapter, generation.prompt.keys)
            if self._worth_waiting(generation, common):
                break
            row = _Row(generation, None)
            encoded = self._runner.images_encoded
            try:
                if not self._runner.slots.admit(len(generation.prompt.ids) + generation.sampling.max_tokens):
                    break
                self._rows.append(row)
                gathered += self._begin(row, known, min(common, len(generation.prompt.ids) - 1))
            except Exception as error:  # of this request alone
                if row in self._rows:
                    self._leave(row, keep=False)
                generation.fail(error)
                self.stats.failed += 1
            gathered += (self._runner.images_encoded - encoded) * self._runner.patches
            with self._changed:
                self._waiting.popleft()
                self.stats.waiting = len(self._waiting)

    def _begin(self, row: _Row, known: Prefix | None, common: int) -> int:
        """Fill a new row with what is known of its prompt, and embed the rest.

        That is at least the last token, whose logits are wanted. Returns how many tokens are to be read.
        """
        generation = row.generation
        started = time.perf_counter()
        generation.timings["queue"] = started - generation.queued
        if known is not None and common:
            self._runner.slots.write(len(self._rows) - 1, known.stored, common)
        generation.cached_tokens = common
        self._adapters.use(generation.adapter)
        row.embeds = self._runner.embed(generation.prompt, common)
        self.stats.images_encoded, self.stats.images_reused = self._runner.images_encoded, self._runner.images_reused
        generation.timings["vision"] = time.perf_counter() - started
        self.stats.prompt_tokens += len(generation.prompt.ids)
        self.stats.cached_prompt_tokens += common
        return len(row.embeds)

    def _worth_waiting(self, generation: Generation, common: int) -> bool:
        """Whether another row is just reading most of what this request would have to read."""
        keys = generation.prompt.keys
        for row in self._rows:
            if row.embeds is not None and row.generation.adapter == generation.adapter:
                shared = shared_length(row.generation.prompt.keys, keys)
                if shared - common > (len(keys) - common) / 2:
                    return True
        return False

    def _step(self) -> None:
        """One forward pass for the rows of each adapter, and the tokens that come of it."""
        for adapter in sorted({row.generation.adapter for row in self._rows}):
            rows = [row for row in self._rows if row.generation.adapter == adapter]
            self._step_rows(adapter, rows)
            self.stats.steps += 1

    def _step_rows(self, adapter: int, rows: list[_Row]) -> None:
        numbers = {id(row): number for number, row in enumerate(self._rows)}
        left = self._step_tokens
        works: list[tuple[_Row, StepInput]] = []
        for row in rows:
            number = numbers[id(row)]
            if row.embeds is None:
                works.append((row, StepInput(number, token=row.generation.token_ids[-1])))
            elif left > 0:
                stretch = row.embeds[:left]
                left -= len(stretch)
                works.append((row, StepInput(number, stretch, keep=int(len(stretch) == len(row.embeds)))))
        works.sort(key=lambda pair: pair[1].count > 1)
        started = time.perf_counter()
        self._adapters.use(adapter)
        logits = self._runner.step([work for _, work in works], adapter)
        drawing = [row for row, work in works if work.keep]
        tokens = draw_tokens(logits, [row.generation.sampler for row in drawing]) if drawing else []
        elapsed = time.perf_counter() - started
        for row, work in works:
            row.generation.timings["decode" if row.embeds is None else "prefill"] += elapsed
            if row.embeds is not None:
                row.embeds = None if work.keep else row.embeds[work.count :]
                if work.keep:
                    self._remember(row)
        for row, token, scores in zip(drawing, tokens, logits, strict=True):
            self.stats.completion_tokens += 1
            if row.generation.take(token, scores):
                self._leave(row)
                self.stats.finished += 1

    def _remember(self, row: _Row) -> None:
        """Keep a row's keys and values for requests that begin alike."""
        slots = self._runner.slots
        number = self._rows.index(row)
        keys = row.keys[: slots.lengths[number]]
        if not self.prefixes.covers(row.generation.adapter, keys):
            self.prefixes.put(row.generation.adapter, keys, slots.read(number))

    def _leave(self, row: _Row, *, keep: bool = True) -> None:
        """Take a row out of the batch; its last place goes to the last row, as in the KV cache."""
        if keep and row.embeds is None:
            self._remember(row)
        number = self._rows.index(row)
        self._runner.slots.remove(number)
        last = self._rows.pop()
        if number < len(self._rows):
            self._rows[number] = last

    def _fail_rows(self, error: Exception) -> None:
        """End every answer in the batch with an error; those that wait get their turn."""
        for row in list(self._rows):
            row.generation.fail(error)
            self._leave(row, keep=False)
            self.stats.failed += 1

    def _fail_all(self, error: Exception) -> None:
        self._fail_rows(error)
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
            calls, self._calls = list(self._calls), deque()
        for generation in waiting:
            generation.fail(error)
            self.stats.failed += 1
        for _, future in calls:
            future.set_exception(error)
