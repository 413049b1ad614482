"""Naming and grounding: does an answer name the thing, and do grounded phrases sit where they should."""

from collections.abc import Iterable, Sequence

from fourfold.assistant.english import head_noun, singular, words_of
from fourfold.assistant.grounding import Box, GroundedPhrase
from fourfold.eval.scorers import normalise

Reference = tuple[str, Sequence[Box]]
"""A phrase of the ground truth with its boxes."""


def names_exactly(answer: str, names: Iterable[str]) -> bool:
    """Whether the answer equals one of the names after the VQA normalisation (case, articles, punctuation)."""
    return normalise.vqa(answer) in {normalise.vqa(name) for name in names}


def noun_of(phrase: str) -> str | None:
    """The noun that a phrase is about, singular; its last word where no noun of the vocabulary is in it."""
    noun = head_noun(phrase)
    if noun is not None:
        return noun
    words = words_of(phrase)
    return singular(words[-1]) if words else None


def names_the_noun(answer: str, names: Iterable[str]) -> bool:
    """Whether the answer's head noun is that of one of the names: "a small dog" names "black dog"."""
    noun = noun_of(answer)
    return noun is not None and noun in {noun_of(name) for name in names}


def agree(noun: str | None, boxes: Sequence[Box], other: str | None, others: Sequence[Box]) -> bool:
    """Same head noun, and some pair of boxes with IoU >= 0.5."""
    return noun is not None and noun == other and any(a.iou(b) >= 0.5 for a in boxes for b in others)


def grounded_phrases(written: Sequence[GroundedPhrase], references: Sequence[Reference]) -> tuple[int, int, int, int]:
    """Counts for the phrase accuracy of one grounded caption.

    Returns:
        Written phrases that agree with a reference (noun and box), written phrases, references that a written phrase
        agrees with, references.
    """
    said = [(noun_of(phrase.phrase or ""), phrase.boxes) for phrase in written]
    true = [(noun_of(phrase), boxes) for phrase, boxes in references if boxes]
    right = sum(any(agree(*one, *two) for two in true) for one in said)
    found = sum(any(agree(*one, *two) for one in said) for two in true)
    return right, len(said), found, len(true)
