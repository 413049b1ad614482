"""How likely given answers are, without drawing any.

What questions share, such as a picture, is read once. Then every question is read alone behind it, whatever others are
asked or answered at the time: the kernels that multiply several rows round differently with their number, so a
question that shared a forward pass would get another answer beside other neighbours.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, with_tag
from fourfold.serving.engine.cache import shared_length
from fourfold.serving.engine.kv_cache import StepInput
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.prefix_cache import PrefixCache, joined
from fourfold.serving.engine.prompt.builder import Messages, Prompt, PromptBuilder, PromptImage, images_of
from fourfold.serving.engine.requests import QueueFull
from fourfold.serving.engine.sampling.draw import log_softmax
from fourfold.serving.engine.scheduler import Scheduler
from fourfold.serving.engine.torch_backend.lora_manager import LoRAManager

_SLICE = 512
"""Tokens read between two steps of running answers."""
_TAIL = 2
"""Tokens of a question that are read at the same time at least: one alone would go through another kernel."""
_PROBES = ("yes?", "no?")
"""Two questions that begin differently: what their prompts share is the context."""

Candidate = tuple[Prompt, int]
"""The conversation with an answer, and the position of the answer's first token."""


@dataclass(frozen=True)
class Question:
    """Asked about a context.

    Attributes:
        content: its parts, as in a message of `Request`.
        candidates: the answers that are to be compared.
    """

    content: list[dict[str, Any]]
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """How likely the candidates of a question are.

    Attributes:
        log_likelihoods: of each candidate's own tokens (the end of the turn not counted), in their order.
        tokens: that were read for this question alone.
        refusal: why it cannot be asked, in one line; then there are no likelihoods.
    """

    log_likelihoods: tuple[tuple[float, ...], ...] = ()
    tokens: int = 0
    refusal: str | None = None

    @property
    def means(self) -> list[float]:
        """Mean log-likelihood of each candidate."""
        return [sum(tokens) / len(tokens) for tokens in self.log_likelihoods]


@dataclass
class Ranker:
    """Reads a context once and ranks answers to questions about it.

    Args:
        builder: of prompts.
        scheduler: whose thread the model belongs to; its running answers go on in between.
        runner: the model.
        adapters: of which `lora_id` is used.
        rows: candidates of a question read at the same time. A constant of the engine, so that the same question is
            read in the same way whatever else is going on.
        context: conversation that the questions are about; they belong to its last turn where that is a user's.
        template: variables for the chat template.

    Attributes:
        context_tokens: of the context; `cached_tokens` of them were known already. Set by `read`.
    """

    builder: PromptBuilder
    scheduler: Scheduler
    runner: ModelRunner
    adapters: LoRAManager
    lora_id: int
    rows: int
    context: Messages
    template: Mapping[str, bool]
    context_tokens: int = 0
    cached_tokens: int = 0
    _images: dict[int, PromptImage] = field(default_factory=dict)

    def rank(self, questions: Sequence[Question]) -> Generator[Ranking, None, None]:
        """Rank each question's candidates, in their order.

        Raises:
            UserError: the context is malformed or too long.
            QueueFull: running answers leave no room.
            EngineClosed: the engine was closed.
        """
        shared, stored = self._read_context()
        waiting: list[Ranking | list[Candidate]] = []
        gathered = 0
        for question in questions:
            candidates = self._candidates(question)
            tokens = 0 if isinstance(candidates, Ranking) else sum(len(p.ids) - len(shared.ids) for p, _ in candidates)
            if waiting and gathered + tokens > _SLICE:
                yield from self._rank(waiting, shared, stored)
                waiting, gathered = [], 0
            waiting.append(candidates)
            gathered += tokens
        if waiting:
            yield from self._rank(waiting, shared, stored)

    def _candidates(self, question: Question) -> Ranking | list[Candidate]:
        messages = asked(self.context, question.content)
        try:
            candidates = self.builder.candidates(messages, question.candidates, self.template, self._images)
        except UserError as error:
            return Ranking(refusal=str(error))
        answers = [tuple(prompt.ids[first:]) for prompt, first in candidates]
        if len(set(answers)) < len(answers):
            return Ranking(refusal="two of the answers read the same to this model")
        return candidates

    def _read_context(self) -> tuple[Prompt, Any]:
        """The prompt that all questions share, and its keys and values."""
        # Questions about pictures begin with a tag, which is read with them once; one that has none is read without.
        seen = bool(self.context and images_of(self.context))
        prompts = [
            self.builder.prompt(asked(self.context, [{"type": "text", "text": text}]), self.template, self._images)
            for text in (with_tag(Task.VQA, probe) if seen else probe for probe in _PROBES)
        ]
        length = shared_length(prompts[0].keys, prompts[1].keys)
        shared = Prompt(prompts[0].ids[:length], prompts[0].keys[:length], prompts[0].images)
        self.context_tokens = length
        # What another conversation left was read in other pieces, which may round differently.
        known = self.scheduler.call(lambda: self.scheduler.prefix_cache.exact(self.lora_id, shared.keys))
        if known is not None:
            self.cached_tokens = length
            return shared, known
        for image in shared.images:  # resized here, not on the model's thread
            if image.digest not in self.runner.feature_cache:
                _ = image.pixel_values
        embeds = self.scheduler.call(lambda: self._embed(prompts[0], length))
        stored: Any = None
        for begin in range(0, length, _SLICE):
            stored = self.scheduler.call(partial(self._read_on, embeds[: begin + _SLICE], stored))
        assert stored is not None
        self.scheduler.call(lambda: self.scheduler.prefix_cache.put_exact(self.lora_id, shared.keys, stored))
        return shared, stored

    def _embed(self, prompt: Prompt, length: int) -> np.ndarray:
        self.adapters.use(self.lora_id)
        embeds = self.runner.embed(prompt, 0, self.lora_id)[:length]
        stats = self.scheduler.stats
        stats.images_encoded, stats.images_reused = self.runner.images_encoded, self.runner.images_reused
        return embeds

    def _read_on(self, embeds: np.ndarray, stored: Any) -> Any:
        self.adapters.use(self.lora_id)
        return _read_on(self.runner, self.lora_id, embeds, stored)

    def _rank(self, questions: Sequence[Ranking | list[Candidate]], shared: Prompt, stored: Any) -> list[Ranking]:
        def run() -> list[Ranking]:
            self.adapters.use(self.lora_id)
            return rank_candidates(self.runner, self.lora_id, questions, shared, stored, self.rows)

        return self.scheduler.call(run)


def asked(context: Messages, content: list[dict[str, Any]]) -> Messages:
    """A conversation in which a question is asked: in the last turn where that is a user's, else in a new one."""
    if not context or context[-1]["role"] != "user":
        return [*context, {"role": "user", "content": content}]
    last = context[-1]["content"]
    parts = [{"type": "text", "text": last}] if isinstance(last, str) else list(last)
    return [*context[:-1], {"role": "user", "content": [*parts, *content]}]


def mean_log_likelihoods(
    runner: ModelRunner, prefix_cache: PrefixCache, lora_id: int, candidates: Sequence[Candidate], rows: int
) -> list[float]:
    """Mean log-probability of each candidate's own tokens; what they have in common is read once.

    Runs on the model's thread, beside the rows of running answers; what is known of the conversation is used.

    Raises:
        QueueFull: running answers leave no room.
    """
    prompt, _ = candidates[0]
    length = max(_split(candidates) - _TAIL, 0)
    shared = Prompt(prompt.ids[:length], prompt.keys[:length], prompt.images)
    known = prefix_cache.longest(lora_id, shared.keys)
    stored = joined(known.parts) if known.length else None
    if known.length < length:
        stored = _read_on(runner, lora_id, runner.embed(prompt, 0, lora_id)[:length], stored)
        prefix_cache.put(lora_id, shared.keys, lambda start: joined([stored[:, :, :, start:]]))
    (ranking,) = rank_candidates(runner, lora_id, [candidates], shared, stored, rows)
    return ranking.means


def rank_candidates(
    runner: ModelRunner,
    lora_id: int,
    questions: Sequence[Ranking | Sequence[Candidate]],
    shared: Prompt,
    stored: Any,
    rows: int,
) -> list[Ranking]:
    """Rank the candidates of questions that begin alike; those that have a ranking already keep it.

    Runs on the model's thread.

    Args:
        runner: the model.
        lora_id: of the adapter, which is in use.
        questions: the candidates of each.
        shared: what they begin with, not all of it necessarily.
        stored: its keys and values, at least.
        rows: candidates of a question read at the same time.

    Raises:
        QueueFull: running answers leave no room.
    """
    asked = [candidates for candidates in questions if not isinstance(candidates, Ranking)]
    if not asked:
        return [question for question in questions if isinstance(question, Ranking)]
    row = _admit(runner, max(len(prompt.ids) for candidates in asked for prompt, _ in candidates))
    rankings = []
    try:
        intact = 0  # positions of the row that hold the shared beginning
        for candidates in questions:
            if isinstance(candidates, Ranking):
                rankings.append(candidates)
                continue
            split = _split(candidates)
            begin = min(shared_length(shared.keys, candidates[0][0].keys), max(split - _TAIL, 0))
            if begin > intact:
                runner.kv_cache.truncate(row, 0)
                runner.kv_cache.write(row, stored, begin)
            else:
                runner.kv_cache.truncate(row, begin)
            intact = begin
            rankings.append(_rank_one(runner, lora_id, row, candidates, begin, split, rows))
    finally:
        runner.kv_cache.remove(row)
    return rankings


def _rank_one(
    runner: ModelRunner, lora_id: int, row: int, candidates: Sequence[Candidate], begin: int, split: int, rows: int
) -> Ranking:
    """Read a question once, and each candidate of more than a token behind it."""
    kv_cache = runner.kv_cache
    head = candidates[0][0]
    embeds = runner.embed(head, begin, lora_id)[: split - begin]
    first = log_softmax(runner.step([StepInput(row, embeds)], lora_id))
    read = split - begin
    found: list[np.ndarray | None] = [None] * len(candidates)
    longer = [number for number, (prompt, _) in enumerate(candidates) if len(prompt.ids) > split + 1]
    before = kv_cache.read(row) if len(longer) > 1 and rows > 1 else None
    for place in range(0, len(longer), rows):
        group = longer[place : place + rows]
        entries: list[tuple[int, StepInput]] = []
        occupied = len(kv_cache.lengths)
        try:
            for number in group:
                prompt, _ = candidates[number]
                own = row
                if entries:
                    assert before is not None
                    own = _admit(runner, len(prompt.ids))
                    kv_cache.write(own, before, split)
                # The last token's own successor is of no interest.
                tail = runner.embed(prompt, split, lora_id)[:-1]
                entries.append((number, StepInput(own, tail, keep=len(tail))))
                read += len(tail)
            entries.sort(key=lambda pair: pair[1].count > 1)
            logs = log_softmax(runner.step([entry for _, entry in entries], lora_id))
            ends = np.cumsum([entry.keep for _, entry in entries])
            for (number, _), rest in zip(entries, np.split(logs, ends[:-1]), strict=True):
                found[number] = rest
        finally:
            while len(kv_cache.lengths) > occupied:
                kv_cache.remove(len(kv_cache.lengths) - 1)
        kv_cache.truncate(row, split)
    told = []
    for (prompt, start), more in zip(candidates, found, strict=True):
        logs = first if more is None else np.concatenate((first, more))
        ids = prompt.ids[start:]
        told.append(tuple(logs[range(start - split, len(logs)), ids].tolist()))
    if not all(math.isfinite(value) for tokens in told for value in tokens):
        return Ranking(tokens=read, refusal="the model gives no probability for these answers")
    return Ranking(tuple(told), read)


def _split(candidates: Sequence[Candidate]) -> int:
    """How many tokens the candidates of a question share before their answers begin."""
    prompt = candidates[0][0]
    return min(min(shared_length(prompt.keys, other.keys), first) for other, first in candidates)


def _read_on(runner: ModelRunner, lora_id: int, embeds: np.ndarray, stored: Any) -> Any:
    """Keys and values of a prompt with these embeddings, whose first positions have those that are `stored`."""
    row = _admit(runner, len(embeds))
    try:
        begin = 0
        if stored is not None:
            begin = min(stored.shape[3], max(len(embeds) - _TAIL, 0))
            runner.kv_cache.write(row, stored, begin)
        runner.step([StepInput(row, embeds[begin:], keep=0)], lora_id)
        return runner.kv_cache.read(row)
    finally:
        runner.kv_cache.remove(row)


def _admit(runner: ModelRunner, tokens: int) -> int:
    """Number of a new row that may grow to `tokens`."""
    if not runner.kv_cache.admit(tokens):
        raise QueueFull("running answers leave no room to score candidates; try again later")
    return len(runner.kv_cache.lengths) - 1
