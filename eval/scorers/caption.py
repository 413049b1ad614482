"""CIDEr-D: how much a caption says what people said, weighing words by how telling they are.

Written from the paper (Vedantam et al. 2015, CIDEr-D with sigma 6 and n-grams up to 4, times 10) with the document
frequencies of the references that are evaluated, as in the COCO caption evaluation. That evaluation cuts words with
Stanford's tokeniser (Java); `tokens` cuts them alike for plain captions: lower case, punctuation dropped, possessive
"'s" split off.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

_TOKEN = re.compile(r"'s\b|n't\b|[^\W_]+(?:[-.,/][^\W_]+)*", re.UNICODE)
_LONGEST = 4
_SIGMA = 6.0

Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]


def tokens(text: str) -> list[str]:
    """Words of a caption in lower case, without punctuation."""
    return _TOKEN.findall(text.lower())


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[start : start + size]) for size in range(1, _LONGEST + 1) for start in range(len(words) - size + 1)
    )


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each candidate, 0..10; the mean over a corpus times 10 is the figure that papers print times 100.

    Args:
        candidates: one caption an image.
        references: the images' reference captions, at least one each.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} captions for {len(references)} images")
    counted = [[_ngrams(tokens(reference)) for reference in refs] for refs in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for refs in counted:
        frequency.update({ngram for reference in refs for ngram in reference})
    corpus = math.log(max(len(references), 1))
    scores = []
    for candidate, refs in zip(candidates, counted, strict=True):
        if not refs:
            raise ValueError("an image without a reference caption cannot be scored")
        own = _vector(_ngrams(tokens(candidate)), frequency, corpus)
        similar = [_similarity(own, _vector(reference, frequency, corpus)) for reference in refs]
        scores.append(10 * sum(similar) / len(similar))
    return scores


def _vector(counts: Counter[tuple[str, ...]], frequency: Counter[tuple[str, ...]], corpus: float) -> Vector:
    """TF-IDF by n-gram size, the norms, and the length (in bigrams, as the COCO evaluation has it)."""
    weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_LONGEST)]
    length = 0
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * (corpus - math.log(max(frequency[ngram], 1)))
        length += count if len(ngram) == 2 else 0
    return weights, [math.sqrt(sum(value**2 for value in size.values())) for size in weights], length


def _similarity(candidate: Vector, reference: Vector) -> float:
    """Mean over n-gram sizes of the clipped cosine, with the Gaussian penalty on the difference in length."""
    penalty = math.exp(-((candidate[2] - reference[2]) ** 2) / (2 * _SIGMA**2))
    total = 0.0
    for size in range(_LONGEST):
        dot = sum(
            min(weight, reference[0][size].get(ngram, 0.0)) * reference[0][size].get(ngram, 0.0)
            for ngram, weight in candidate[0][size].items()
        )
        if candidate[1][size] and reference[1][size]:
            total += dot / (candidate[1][size] * reference[1][size])
    return total * penalty / _LONGEST
