"""Drawing the next token of every row of a batch."""

import math

import torch

from fourfold.serving.engine.requests import Sampling


class Sampler:
    """Draws one request's tokens, independently of whoever shares its batch; `device` is where the logits will be."""

    def __init__(self, sampling: Sampling, prompt_ids: list[int], vocab_size: int, device: torch.device) -> None:
        self.sampling = sampling
        self.greedy = sampling.temperature == 0
        self.plain = self.greedy and sampling.repetition_penalty == 1
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**64)
        self._seen: torch.Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt_ids, device=device)] = True

    def draw(self, logits: torch.Tensor) -> int:
        """A token from the logits (vocabulary,) of this row."""
        logits = logits.float()
        if self._seen is not None:
            penalty = self.sampling.repetition_penalty
            penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self._seen, penalised, logits)
        token = int(logits.argmax()) if self.greedy else self._draw_from(logits)
        if self._seen is not None:
            self._seen[token] = True
        return token

    def _draw_from(self, logits: torch.Tensor) -> int:
        # Inverse transform on sorted probabilities: one uniform number a token, so that a seed means the same anywhere.
        probabilities, order = torch.softmax(logits / self.sampling.temperature, dim=-1).sort(
            descending=True, stable=True
        )
        below = probabilities.cumsum(0)
        if self.sampling.top_p < 1:
            # The nucleus holds every token before which less than top_p is gathered; the first always.
            count = int((below - probabilities < self.sampling.top_p).sum())
            below = below[: max(count, 1)]
        uniform = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        place = int(torch.searchsorted(below, uniform * float(below[-1]), right=True))
        return int(order[min(place, len(below) - 1)])


def draw_tokens(logits: torch.Tensor, samplers: list[Sampler], suppressed: torch.Tensor | None = None) -> list[int]:
    """The next token of each row of (rows, vocabulary) logits, none of `suppressed`; greedy rows are done at once."""
    if suppressed is not None:
        logits = logits.index_fill(-1, suppressed, -torch.inf)
    greedy = logits.argmax(dim=-1).tolist() if any(sampler.plain for sampler in samplers) else [0] * len(samplers)
    return [
        token if sampler.plain else sampler.draw(row)
        for token, sampler, row in zip(greedy, samplers, logits, strict=True)
    ]


def top_logprobs(logits: torch.Tensor, token_id: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of `token_id` and the `count` likeliest (token, log-probability) under logits (vocabulary,)."""
    logits = logits.float()
    norm = float(logits.logsumexp(-1))
    top = torch.topk(logits, count) if count else None
    listed = [] if top is None else list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    own = float(logits[token_id]) - norm
    return (own if math.isfinite(own) else -9999.0), [(token, value - norm) for token, value in listed]
