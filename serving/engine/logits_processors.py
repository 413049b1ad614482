"""What changes a row's logits before its next token is drawn, in the terms of transformers and vLLM."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

LogitsProcessor = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""From logits (vocabulary,), float32, and the answer's tokens so far to the logits that count."""


def logit_bias(bias: Sequence[tuple[int, float]], device: torch.device) -> LogitsProcessor:
    """Add to the logits of single tokens."""
    tokens = torch.tensor([token for token, _ in bias], device=device)
    added = torch.tensor([value for _, value in bias], dtype=torch.float32, device=device)
    return lambda logits, token_ids: logits.index_add(0, tokens, added)


def repetition_penalty(
    penalty: float, prompt_ids: Sequence[int], vocabulary: int, device: torch.device
) -> LogitsProcessor:
    """Divide positive and multiply negative logits of what the prompt or the answer holds (Keskar et al. 2019)."""
    seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    seen[torch.tensor(prompt_ids, device=device)] = True

    def process(logits: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
        if token_ids:
            seen[token_ids[-1]] = True
        return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)

    return process


def output_penalties(presence: float, frequency: float, vocabulary: int, device: torch.device) -> LogitsProcessor:
    """OpenAI's penalties: for having been said at all, and for each time it was."""
    counts = torch.zeros(vocabulary, device=device)

    def process(logits: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
        if token_ids:
            counts[token_ids[-1]] += 1
        return logits - frequency * counts - presence * (counts > 0)

    return process


def ban(banned: Callable[[Sequence[int]], Iterable[int]]) -> LogitsProcessor:
    """Make tokens impossible that depend on the answer so far, unless no other is possible."""

    def process(logits: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
        tokens = list(banned(token_ids))
        if not tokens:
            return logits
        without = logits.index_fill(0, torch.tensor(tokens, device=logits.device), -torch.inf)
        return without if bool(without.isfinite().any()) else logits

    return process


def bad_words(words: Sequence[tuple[int, ...]]) -> LogitsProcessor:
    """Never complete a sequence of tokens."""

    def banned(token_ids: Sequence[int]) -> Iterable[int]:
        for *before, last in words:
            if not before or list(token_ids[-len(before) :]) == before:
                yield last

    return ban(banned)


def min_tokens(least: int, end_ids: Iterable[int]) -> LogitsProcessor:
    """Do not end before the answer has so many tokens."""
    ends = sorted(end_ids)
    return ban(lambda token_ids: ends if len(token_ids) < least else ())


def bad_word_tokens(tokenizer: Any, words: Iterable[str]) -> list[tuple[int, ...]]:
    """The tokens of words, at the start of a text and behind a space, as vLLM takes them."""
    found: list[tuple[int, ...]] = []
    for word in words:
        for text in (word, " " + word.lstrip()):
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            if ids and ids not in found:
                found.append(ids)
    return found
