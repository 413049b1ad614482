"""What changes a row's logits before its next token is drawn, in the terms of transformers and vLLM."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

LogitsProcessor = Callable[[np.ndarray, Sequence[int]], np.ndarray]
"""From logits (vocabulary,), float32, and the answer's tokens so far to the logits that count."""


def logit_bias(bias: Sequence[tuple[int, float]]) -> LogitsProcessor:
    """Add to the logits of single tokens."""
    tokens = [token for token, _ in bias]
    added = np.array([value for _, value in bias], np.float32)

    def process(logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        logits = logits.copy()
        np.add.at(logits, tokens, added)  # a token may be there twice
        return logits

    return process


def repetition_penalty(penalty: float, prompt_ids: Sequence[int], vocabulary: int) -> LogitsProcessor:
    """Divide positive and multiply negative logits of what the prompt or the answer holds (Keskar et al. 2019)."""
    seen = np.zeros(vocabulary, bool)
    seen[prompt_ids] = True

    def process(logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        if token_ids:
            seen[token_ids[-1]] = True
        return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)

    return process


def output_penalties(presence: float, frequency: float, vocabulary: int) -> LogitsProcessor:
    """OpenAI's penalties: for having been said at all, and for each time it was."""
    counts = np.zeros(vocabulary, np.float32)

    def process(logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        if token_ids:
            counts[token_ids[-1]] += 1
        return logits - frequency * counts - presence * (counts > 0)

    return process


def ban(banned: Callable[[Sequence[int]], Iterable[int]]) -> LogitsProcessor:
    """Make tokens impossible that depend on the answer so far, unless no other is possible."""

    def process(logits: np.ndarray, token_ids: Sequence[int]) -> np.ndarray:
        tokens = list(banned(token_ids))
        if not tokens:
            return logits
        without = logits.copy()
        without[tokens] = -np.inf
        return without if np.isfinite(without).any() else logits

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
