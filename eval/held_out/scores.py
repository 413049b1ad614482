"""The card's figures, a function a kind of item: from samples and answers to estimates in percent."""

from collections.abc import Callable, Sequence

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.training.data import Sample
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.boxes import match_boxes
from fourfold.eval.scorers.caption import cider_d
from fourfold.eval.scorers.phrases import grounded_phrases, names_exactly, names_the_noun
from fourfold.eval.scorers.precision_recall import precision_recall
from fourfold.eval.scorers.yes_no import first_verdict, yes_no_figures
from fourfold.eval.statistics import Estimate, clustered_mean

Figures = dict[str, Estimate]


def _images(samples: Sequence[Sample]) -> list[str]:
    return [sample.image.id for sample in samples]


def existence(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """POPE's figures over all pairs, and by the kind of negative, each with the yeses that it was paired with."""
    verdicts = [first_verdict(answer) for answer in answers]
    truths = [sample.turns[0].answer == "yes" for sample in samples]
    figures = yes_no_figures(truths, verdicts, _images(samples))
    kinds = _negative_kinds(samples)
    for kind in ("random", "popular", "adversarial"):
        rows = [row for row, found in enumerate(kinds) if found == kind]
        if rows and len(set(kinds) - {None}) > 1:
            part = yes_no_figures(
                [truths[row] for row in rows],
                [verdicts[row] for row in rows],
                [samples[row].image.id for row in rows],
            )
            figures[f"accuracy/{kind}"], figures[f"f1/{kind}"] = part["accuracy"], part["f1"]
    return figures


def _negative_kinds(samples: Sequence[Sample]) -> list[str | None]:
    """The kind of each negative; a yes belongs to the negative about the same image that follows it."""
    kinds = [sample.turns[0].facts["negative"] for sample in samples]
    for row in range(len(samples) - 1):
        if kinds[row] is None and samples[row].image.id == samples[row + 1].image.id:
            kinds[row] = kinds[row + 1]
    return kinds


def short_answer(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """Exact match after the VQA normalisation, with any of the names that count as right."""
    right = [
        float(names_exactly(answer, (sample.turns[0].answer, *sample.turns[0].facts.get("names", ()))))
        for sample, answer in zip(samples, answers, strict=True)
    ]
    return {"accuracy": clustered_mean(right, _images(samples))}


def count(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """Exact match, number words read as digits; also how often the answer is off by one at most."""
    right, near = [], []
    for sample, answer in zip(samples, answers, strict=True):
        said, true = normalise.vqa(answer), normalise.vqa(sample.turns[0].answer)
        right.append(float(said == true))
        near.append(float(said.isdecimal() and true.isdecimal() and abs(int(said) - int(true)) <= 1))
    images = _images(samples)
    return {"accuracy": clustered_mean(right, images), "off by one at most": clustered_mean(near, images)}


def relation(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """Accuracy of yes and no, and how often yes was said."""
    truths = [sample.turns[0].answer == "yes" for sample in samples]
    figures = yes_no_figures(truths, [first_verdict(answer) for answer in answers], _images(samples))
    return {name: figures[name] for name in ("accuracy", "yes_ratio")}


def caption(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """CIDEr-D times 100; document frequencies are those of these samples' references."""
    references = [sample.turns[0].facts["references"] for sample in samples]
    scores = [score / 10 for score in cider_d(answers, references)]
    return {"cider": clustered_mean(scores, _images(samples), scale=1000.0, ceiling=None)}


def refer(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """acc@0.5 of the first box, mean IoU (0..1), and how often no box could be read; that counts as wrong."""
    ious, unread = [], []
    for sample, answer in zip(samples, answers, strict=True):
        phrases = parse(answer).phrases
        ious.append(phrases[0].boxes[0].iou(sample.turns[0].boxes[0]) if phrases else 0.0)
        unread.append(float(not phrases))
    images = _images(samples)
    return {
        "acc@0.5": clustered_mean([float(iou >= 0.5) for iou in ious], images),
        "mean_iou (0..1)": clustered_mean(ious, images, scale=1.0),
        "no box": clustered_mean(unread, images),
    }


def identify(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """Exact match with any of the thing's names after normalisation, and agreement of the head noun alone."""
    exact, noun = [], []
    for sample, answer in zip(samples, answers, strict=True):
        names = (sample.turns[0].answer, *sample.turns[0].facts["names"])
        exact.append(float(names_exactly(answer, names)))
        noun.append(float(exact[-1] or names_the_noun(answer, names)))
    images = _images(samples)
    return {"accuracy": clustered_mean(exact, images), "head noun": clustered_mean(noun, images)}


def detection(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """Precision, recall and F1 of boxes at IoU 0.5 over all items, and how often the absent was left unboxed."""
    found, predicted, true, denied, absent_images = [], [], [], [], []
    for sample, answer in zip(samples, answers, strict=True):
        boxes = [box for phrase in parse(answer).phrases for box in phrase.boxes]
        found.append(float(match_boxes(boxes, sample.turns[0].boxes, overlap=Box.iou)))
        predicted.append(float(len(boxes)))
        true.append(float(len(sample.turns[0].boxes)))
        if sample.turns[0].facts["absent"]:
            denied.append(float(not boxes))
            absent_images.append(sample.image.id)
    figures = precision_recall([found, predicted, found, true], _images(samples))
    if denied:
        figures["absent left unboxed"] = clustered_mean(denied, absent_images)
    return figures


def grounding(samples: Sequence[Sample], answers: Sequence[str]) -> Figures:
    """Phrase accuracy of grounded captions, and CIDEr-D of their words.

    Precision: of the phrases written with a box, how many have the head noun and the place (IoU >= 0.5) of a phrase of
    the reference caption. Recall: of that caption's phrases, how many such a phrase was written for. One caption of
    five is the reference, so a true phrase about something it leaves out counts as wrong.
    """
    counts, words = [], []
    for sample, answer in zip(samples, answers, strict=True):
        grounded = parse(answer)
        pairs: list[tuple[str, Sequence[Box]]] = list(sample.turns[0].facts["grounded"])
        counts.append(grounded_phrases(grounded.phrases, pairs))
        words.append(grounded.plain)
    images = _images(samples)
    figures = precision_recall([[float(row[k]) for row in counts] for k in range(4)], images)
    figures["no phrase"] = clustered_mean([float(row[1] == 0) for row in counts], images)
    references = [sample.turns[0].facts["references"] for sample in samples]
    scores = [score / 10 for score in cider_d(words, references)]
    figures["cider"] = clustered_mean(scores, images, scale=1000.0, ceiling=None)
    return figures


SCORES: dict[str, Callable[[Sequence[Sample], Sequence[str]], Figures]] = {
    "existence": existence,
    "colour": short_answer,
    "count": count,
    "relation": relation,
    "what": short_answer,
    "text": short_answer,
    "annotated": short_answer,
    "caption": caption,
    "refer": refer,
    "identify": identify,
    "detection": detection,
    "grounding": grounding,
}
"""By the kind of a group; the first figure of each is its headline."""
