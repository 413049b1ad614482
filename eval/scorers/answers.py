"""How right one answer is, 0..1: to a held-out question, by its kind, and to a question that was corrected."""

from collections import Counter
from collections.abc import Callable, Sequence

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.training.data import Turn
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.boxes import match_boxes
from fourfold.eval.scorers.caption import cider_d, tokens
from fourfold.eval.scorers.phrases import grounded_phrases, names_exactly, names_the_noun
from fourfold.eval.scorers.yes_no import first_verdict

_SHORT = 3
"""Words up to which a correction is met or not; a longer one is so in parts."""


def score_answers(kind: str, turns: Sequence[Turn], answers: Sequence[str]) -> list[float]:
    """Scores of the answers to held-out questions of one kind, by the rule of its headline.

    Captions: CIDEr-D over 10. Detection and grounding: F1 of the one answer, 1 where nothing is to be found or boxed.
    """
    if kind == "caption":
        return [score / 10 for score in cider_d(answers, [turn.facts["references"] for turn in turns])]
    return list(map(_SCORES[kind], turns, answers))


def agreement(reference: str, answer: str) -> float:
    """How far an answer says what a correction says, 0..1.

    Up to three words: the same after the VQA normalisation, or not. A longer text: F1 of its words (Rajpurkar et al.
    2016, section 6.1). Boxes alone: F1 at IoU 0.5; boxes behind phrases: F1 of phrases with noun and place right.
    """
    right, said = parse(reference), parse(answer)
    if right.phrases:
        pairs = [(grounded.phrase or "", grounded.boxes) for grounded in right.phrases]
        if any(phrase for phrase, _ in pairs):
            return _phrases_f1(answer, pairs)
        return _boxes_f1(parse(answer).boxes, parse(reference).boxes)
    if said.phrases:
        return 0.0
    if len(reference.split()) <= _SHORT:
        return float(names_exactly(answer, (reference,)))
    one, two = Counter(tokens(reference)), Counter(tokens(answer))
    return 2 * (one & two).total() / (one.total() + two.total())


def yes_no(turn: Turn, answer: str) -> float:
    return float(first_verdict(answer) is (turn.answer == "yes"))


def exact_name(turn: Turn, answer: str) -> float:
    """The right answer or another name that counts as right, after the VQA normalisation."""
    return float(names_exactly(answer, (turn.answer, *turn.facts.get("names", ()))))


def head_noun(turn: Turn, answer: str) -> float:
    """The same, or agreement of the head noun alone."""
    return float(exact_name(turn, answer) or names_the_noun(answer, (turn.answer, *turn.facts["names"])))


def number(turn: Turn, answer: str) -> float:
    """Number words are read as digits."""
    return float(normalise.vqa(answer) == normalise.vqa(turn.answer))


def first_box_iou(turn: Turn, answer: str) -> float:
    """IoU of the first box with the right one; 0 where no box can be read."""
    found = parse(answer).boxes
    return found[0].iou(turn.boxes[0]) if found else 0.0


def first_box(turn: Turn, answer: str) -> float:
    """IoU of the first box at least 0.5."""
    return float(first_box_iou(turn, answer) >= 0.5)


def _boxes_f1(found: Sequence[Box], true: Sequence[Box]) -> float:
    return 2 * match_boxes(found, true, overlap=Box.iou) / (len(found) + len(true)) if found or true else 1.0


def _phrases_f1(answer: str, pairs: Sequence[tuple[str, Sequence[Box]]]) -> float:
    right, written, found, true = grounded_phrases(parse(answer).phrases, pairs)
    return 2 * min(right, found) / (written + true) if written + true else 1.0


_SCORES: dict[str, Callable[[Turn, str], float]] = {
    "existence": yes_no,
    "relation": yes_no,
    "colour": exact_name,
    "what": exact_name,
    "text": exact_name,
    "annotated": exact_name,
    "count": number,
    "identify": head_noun,
    "refer": first_box,
    "detection": lambda turn, answer: _boxes_f1(parse(answer).boxes, turn.boxes),
    "grounding": lambda turn, answer: _phrases_f1(answer, list(turn.facts["grounded"])),
}
