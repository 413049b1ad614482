"""Drawing the next token of every row of a batch."""

import math
import random
from collections.abc import Iterable, Sequence

import numpy as np

from fourfold.serving.engine.requests import Sampling
from fourfold.serving.engine.sampling.logits_processors import (
    LogitsProcessor,
    bad_words,
    logit_bias,
    min_tokens,
    output_penalties,
    repetition_penalty,
)
from fourfold.serving.engine.sampling.structured_outputs import Grammar, GrammarError


class Sampler:
    """Draws one request's tokens, independently of whoever shares its batch.

    Args:
        prompt_ids: tokens of the prompt.
        vocab_size: of the logits.
        end_ids: tokens that end the answer, `stop_token_ids` included.
        banned: sequences of tokens that are never completed.
        grammar: what the answer has to look like.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: list[int],
        vocab_size: int,
        *,
        end_ids: Iterable[int] = (),
        banned: Sequence[tuple[int, ...]] = (),
        grammar: Grammar | None = None,
    ) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature == 0
        self._random = random.Random(None if sampling.seed is None else sampling.seed % 2**64)
        self._grammar = grammar
        self._drawn: list[int] = []
        processors: list[LogitsProcessor] = []
        if sampling.logit_bias:
            processors.append(logit_bias(sampling.logit_bias))
        if sampling.repetition_penalty != 1:
            processors.append(repetition_penalty(sampling.repetition_penalty, prompt_ids, vocab_size))
        if sampling.presence_penalty or sampling.frequency_penalty:
            penalties = sampling.presence_penalty, sampling.frequency_penalty
            processors.append(output_penalties(*penalties, vocab_size))
        if banned:
            processors.append(bad_words(banned))
        if sampling.min_tokens:
            processors.append(min_tokens(sampling.min_tokens, end_ids))
        self._processors = processors
        self.plain = self.greedy and not processors and grammar is None

    def draw(self, logits: np.ndarray) -> int:
        """A token from the logits (vocabulary,) of this row.

        Raises:
            GrammarError: the grammar cannot be followed any further.
        """
        if self._grammar is not None:
            logits = np.where(self._grammar.allowed(), logits, -np.inf)
        for process in self._processors:
            logits = process(logits, self._drawn)
        token = int(logits.argmax()) if self.greedy else self._draw_from(logits)
        self._drawn.append(token)
        if self._grammar is not None:
            self._grammar.advance(token)
        return token

    def _draw_from(self, logits: np.ndarray) -> int:
        # Inverse transform on sorted probabilities: one uniform number a token, so that a seed means the same anywhere.
        order = np.argsort(-logits, kind="stable")
        probabilities = np.exp(log_softmax(logits[order].astype(np.float64) / self.sampling.temperature))
        if self.sampling.top_k:
            probabilities = probabilities[: self.sampling.top_k]
        below = probabilities.cumsum()
        if self.sampling.top_p < 1:
            # The nucleus holds every token before which less than top_p is gathered; the first always.
            whole = float(below[-1]) if self.sampling.top_k else 1.0
            count = int((below - probabilities < self.sampling.top_p * whole).sum())
            below = below[: max(count, 1)]
        if self.sampling.min_p:
            likely = probabilities[: len(below)] >= self.sampling.min_p * probabilities[0]
            below = below[: int(likely.sum())]
        place = int(np.searchsorted(below, self._random.random() * below[-1], side="right"))
        return int(order[min(place, len(below) - 1)])


def draw_tokens(
    logits: np.ndarray, samplers: list[Sampler], suppressed: Sequence[int] = ()
) -> list[int | GrammarError]:
    """The next token of each row of (rows, vocabulary) logits, none of `suppressed`; greedy rows are done at once.

    A row whose grammar cannot be followed gets its error in place of a token, which is no concern of the others.
    """
    if suppressed:
        logits = logits.copy()
        logits[:, suppressed] = -np.inf
    greedy = logits.argmax(axis=-1).tolist() if any(sampler.plain for sampler in samplers) else [0] * len(samplers)
    drawn: list[int | GrammarError] = []
    for token, sampler, row in zip(greedy, samplers, logits, strict=True):
        try:
            drawn.append(token if sampler.plain else sampler.draw(row))
        except GrammarError as error:
            drawn.append(error)
    return drawn


def top_logprobs(logits: np.ndarray, token_id: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of `token_id` and the `count` likeliest (token, log-probability) under logits (vocabulary,)."""
    likely = log_softmax(logits.astype(np.float64))
    count = min(count, len(likely))
    top = np.argpartition(-likely, count - 1)[:count] if count else np.empty(0, int)
    top = top[np.argsort(-likely[top], kind="stable")]
    own = float(likely[token_id])
    return (own if math.isfinite(own) else -9999.0), list(zip(top.tolist(), likely[top].tolist(), strict=True))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis, in the dtype of the logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
