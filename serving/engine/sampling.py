"""Drawing the next token of every row of a batch."""

import math
from collections.abc import Iterable, Sequence

import torch

from fourfold.serving.engine.logits_processors import (
    LogitsProcessor,
    bad_words,
    logit_bias,
    min_tokens,
    output_penalties,
    repetition_penalty,
)
from fourfold.serving.engine.requests import Sampling
from fourfold.serving.engine.structured_outputs import Grammar, GrammarError


class Sampler:
    """Draws one request's tokens, independently of whoever shares its batch.

    Args:
        prompt_ids: tokens of the prompt.
        vocab_size: of the logits.
        device: where the logits will be.
        end_ids: tokens that end the answer, `stop_token_ids` included.
        banned: sequences of tokens that are never completed.
        grammar: what the answer has to look like.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: list[int],
        vocab_size: int,
        device: torch.device,
        *,
        end_ids: Iterable[int] = (),
        banned: Sequence[tuple[int, ...]] = (),
        grammar: Grammar | None = None,
    ) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature == 0
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**64)
        self._grammar = grammar
        self._drawn: list[int] = []
        processors: list[LogitsProcessor] = []
        if sampling.logit_bias:
            processors.append(logit_bias(sampling.logit_bias, device))
        if sampling.repetition_penalty != 1:
            processors.append(repetition_penalty(sampling.repetition_penalty, prompt_ids, vocab_size, device))
        if sampling.presence_penalty or sampling.frequency_penalty:
            penalties = sampling.presence_penalty, sampling.frequency_penalty
            processors.append(output_penalties(*penalties, vocab_size, device))
        if banned:
            processors.append(bad_words(banned))
        if sampling.min_tokens:
            processors.append(min_tokens(sampling.min_tokens, end_ids))
        self._processors = processors
        self.plain = self.greedy and not processors and grammar is None

    def draw(self, logits: torch.Tensor) -> int:
        """A token from the logits (vocabulary,) of this row.

        Raises:
            GrammarError: the grammar cannot be followed any further.
        """
        logits = logits.float()
        if self._grammar is not None:
            logits = logits.masked_fill(~self._grammar.allowed().to(logits.device), -torch.inf)
        for process in self._processors:
            logits = process(logits, self._drawn)
        token = int(logits.argmax()) if self.greedy else self._draw_from(logits)
        self._drawn.append(token)
        if self._grammar is not None:
            self._grammar.advance(token)
        return token

    def _draw_from(self, logits: torch.Tensor) -> int:
        # Inverse transform on sorted probabilities: one uniform number a token, so that a seed means the same anywhere.
        probabilities, order = torch.softmax(logits / self.sampling.temperature, dim=-1).sort(
            descending=True, stable=True
        )
        if self.sampling.top_k:
            probabilities = probabilities[: self.sampling.top_k]
        below = probabilities.cumsum(0)
        if self.sampling.top_p < 1:
            # The nucleus holds every token before which less than top_p is gathered; the first always.
            whole = float(below[-1]) if self.sampling.top_k else 1.0
            count = int((below - probabilities < self.sampling.top_p * whole).sum())
            below = below[: max(count, 1)]
        if self.sampling.min_p:
            likely = probabilities[: len(below)] >= self.sampling.min_p * probabilities[0]
            below = below[: int(likely.sum())]
        uniform = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        place = int(torch.searchsorted(below, uniform * float(below[-1]), right=True))
        return int(order[min(place, len(below) - 1)])


def draw_tokens(
    logits: torch.Tensor, samplers: list[Sampler], suppressed: torch.Tensor | None = None
) -> list[int | GrammarError]:
    """The next token of each row of (rows, vocabulary) logits, none of `suppressed`; greedy rows are done at once.

    A row whose grammar cannot be followed gets its error in place of a token, which is no concern of the others.
    """
    if suppressed is not None:
        logits = logits.index_fill(-1, suppressed, -torch.inf)
    greedy = logits.argmax(dim=-1).tolist() if any(sampler.plain for sampler in samplers) else [0] * len(samplers)
    drawn: list[int | GrammarError] = []
    for token, sampler, row in zip(greedy, samplers, logits, strict=True):
        try:
            drawn.append(token if sampler.plain else sampler.draw(row))
        except GrammarError as error:
            drawn.append(error)
    return drawn


def top_logprobs(logits: torch.Tensor, token_id: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of `token_id` and the `count` likeliest (token, log-probability) under logits (vocabulary,)."""
    logits = logits.float()
    norm = float(logits.logsumexp(-1))
    top = torch.topk(logits, count) if count else None
    listed = [] if top is None else list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    own = float(logits[token_id]) - norm
    return (own if math.isfinite(own) else -9999.0), [(token, value - norm) for token, value in listed]
