import math
from collections import Counter
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.eval.scorers.caption import cider_d, tokens

WORD = st.sampled_from(["a", "the", "dog", "cat", "runs", "on", "grass", "red", "ball", "two"])
SENTENCE = st.lists(WORD, max_size=9).map(" ".join)
REFERENCE = st.lists(WORD, min_size=1, max_size=9).map(" ".join)  # pycocoevalcap stops at a corpus without words


def test_tokens_are_those_of_plain_captions() -> None:
    expected = ["a", "man", "'s", "well-known", "dog", "running", "it", "'s", "3.5", "m"]
    assert tokens("A man's well-known dog, running; it's 3.5 m!") == expected


def test_copying_a_reference_beats_everything_else() -> None:
    references = [["a dog runs on grass", "the dog is running"], ["two cats sleep", "cats on a bed"], ["a red ball"]]
    best = cider_d([refs[0] for refs in references], references)
    assert cider_d(["a red ball", "a red ball", "two cats"], references) < best
    assert best[2] == pytest.approx(10 * 3 / 4)  # three words have no 4-gram, which counts as 0


def test_by_hand_on_unigrams() -> None:
    # One word each, two images: idf log 2, cosine 1 in unigrams and nothing longer: 10 / 4.
    assert cider_d(["dog", "dog"], [["dog"], ["cat"]]) == pytest.approx([2.5, 0])


@given(data=st.lists(st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_equals_the_formula_written_out(data: list[tuple[str, list[str]]]) -> None:
    """A second, plain writing of CIDEr-D's equation."""
    candidates, references = [one for one, _ in data], [refs for _, refs in data]

    def grams(text: str, size: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))

    def idf(gram: tuple[str, ...]) -> float:
        images = sum(any(gram in grams(ref, len(gram)) for ref in refs) for refs in references)
        return math.log(len(references)) - math.log(max(images, 1))

    expected = []
    for candidate, refs in zip(candidates, references, strict=True):
        total = 0.0
        for size in (1, 2, 3, 4):
            for ref in refs:
                g = {gram: n * idf(gram) for gram, n in grams(candidate, size).items()}
                h = {gram: n * idf(gram) for gram, n in grams(ref, size).items()}
                norms = math.sqrt(sum(v * v for v in g.values())) * math.sqrt(sum(v * v for v in h.values()))
                dot = sum(min(value, h[gram]) * h[gram] for gram, value in g.items() if gram in h)
                gap = max(len(candidate.split()) - 1, 0) - max(len(ref.split()) - 1, 0)
                total += math.exp(-(gap**2) / 72) * dot / norms / len(refs) if norms else 0.0
        expected.append(10 * total / 4)
    assert cider_d(candidates, references) == pytest.approx(expected, abs=1e-9)


@given(data=st.lists(st.tuples(SENTENCE, st.lists(REFERENCE, min_size=1, max_size=3)), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_equals_pycocoevalcap(coco_cider: ModuleType, data: list[tuple[str, list[str]]]) -> None:
    scorer = coco_cider.CiderScorer(n=4, sigma=6.0)
    for candidate, refs in data:
        scorer += (candidate, refs)
    _, scores = scorer.compute_score()
    assert cider_d([one for one, _ in data], [refs for _, refs in data]) == pytest.approx(list(scores), abs=1e-9)
