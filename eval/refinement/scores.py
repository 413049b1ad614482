"""Scores of single answers, 0..1: what two models are compared by, question by question."""

from collections import Counter
from collections.abc import Callable, Sequence

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.training.data import Sample
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.boxes import match_boxes
from fourfold.eval.scorers.caption import cider_d, tokens
from fourfold.eval.scorers.phrases import grounded_phrases, names_exactly, names_the_noun
from fourfold.eval.scorers.yes_no import first_verdict

_SHORT = 3
"""Words up to which an answer is right or wrong; a longer one is so in parts."""


def agreement(reference: str, answer: str) -> float:
    """How far an answer says what a correction says, 0..1.

    Up to three words: the same after the VQA normalisation, or not. A longer text: F1 of its words (Rajpurkar et al.
    2016, section 6.1). Boxes alone: F1 at IoU 0.5; boxes behind phrases: F1 of phrases with noun and place right.
    """
    right, said = parse(reference), parse(answer)
    if right.phrases:
        pairs = [(grounded.phrase or "", grounded.boxes) for grounded in right.phrases]
        if any(phrase for phrase, _ in pairs):
            found, written, missed, true = grounded_phrases(said.phrases, pairs)
            return 2 * min(found, missed) / (written + true)
        return _boxes_f1(reference, answer)
    if said.phrases:
        return 0.0
    if len(reference.split()) <= _SHORT:
        return float(names_exactly(answer, (reference,)))
    one, two = Counter(tokens(reference)), Counter(tokens(answer))
    return 2 * (one & two).total() / (one.total() + two.total())


def card_scores(kind: str, samples: Sequence[Sample], answers: Sequence[str]) -> list[float]:
    """Scores of a group of the card, 0..1 each, by the rule of its headline.

    Captions: CIDEr-D over 10. Detection and grounding: F1 of the one answer, 1 where nothing is to be found or boxed.
    """
    if kind == "caption":
        return [score / 10 for score in cider_d(answers, [_turn(sample).facts["references"] for sample in samples])]
    score = _SCORES[kind]
    return [score(sample, answer) for sample, answer in zip(samples, answers, strict=True)]


def _turn(sample: Sample):
    return sample.turns[0]


def _yes_no(sample: Sample, answer: str) -> float:
    return float(first_verdict(answer) is (_turn(sample).answer == "yes"))


def _short(sample: Sample, answer: str) -> float:
    return float(names_exactly(answer, (_turn(sample).answer, *_turn(sample).facts.get("names", ()))))


def _count(sample: Sample, answer: str) -> float:
    return float(normalise.vqa(answer) == normalise.vqa(_turn(sample).answer))


def _identify(sample: Sample, answer: str) -> float:
    names = (_turn(sample).answer, *_turn(sample).facts["names"])
    return float(names_exactly(answer, names) or names_the_noun(answer, names))


def _refer(sample: Sample, answer: str) -> float:
    found = _boxes(answer)
    return float(bool(found) and found[0].iou(_turn(sample).boxes[0]) >= 0.5)


def _detection(sample: Sample, answer: str) -> float:
    found, true = _boxes(answer), _turn(sample).boxes
    return 2 * match_boxes(found, true, overlap=Box.iou) / (len(found) + len(true)) if found or true else 1.0


def _grounding(sample: Sample, answer: str) -> float:
    right, written, found, true = grounded_phrases(parse(answer).phrases, list(_turn(sample).facts["grounded"]))
    return 2 * min(right, found) / (written + true) if written + true else 1.0


def _boxes(answer: str) -> list[Box]:
    return [box for grounded in parse(answer).phrases for box in grounded.boxes]


def _boxes_f1(reference: str, answer: str) -> float:
    true, found = _boxes(reference), _boxes(answer)
    return 2 * match_boxes(found, true, overlap=Box.iou) / (len(found) + len(true))


_SCORES: dict[str, Callable[[Sample, str], float]] = {
    "existence": _yes_no,
    "relation": _yes_no,
    "colour": _short,
    "what": _short,
    "text": _short,
    "annotated": _short,
    "count": _count,
    "identify": _identify,
    "refer": _refer,
    "detection": _detection,
    "grounding": _grounding,
}
