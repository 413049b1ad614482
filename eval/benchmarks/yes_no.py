"""POPE, VSR and HatefulMemes: two answers are possible."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from fourfold.eval.benchmarks.benchmark import (
    Answers,
    GradedBenchmark,
    Options,
    RuleScore,
    read_records,
    text_of,
    unique_ids,
)
from fourfold.eval.predictions import Prediction, normal_id
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.ranking import auroc
from fourfold.eval.scorers.yes_no import first_verdict, pope_verdict, yes_no_figures
from fourfold.eval.statistics import bootstrap_weighted
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError


class POPE(GradedBenchmark):
    """POPE: is the object there? A sample's `reference` is whether it is.

    Rules: `pope` reads answers as POPE's script does, where anything without "no" or "not" in its first sentence means
    yes; `strict` takes the first whole word yes or no, and an answer with neither is wrong. Rule `minigpt4` wants
    exactly "yes" or "no".
    """

    name: ClassVar[str] = "pope"
    rules: ClassVar[tuple[str, ...]] = ("pope", "strict", "minigpt4")
    coco_images: ClassVar[bool] = True
    result_lines: ClassVar[bool] = True

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """POPE's label lines: question_id, image, text, label."""
        samples = []
        fields = {"question_id", "image", "text", "label"}
        for where, row in read_records(annotations, self.name, fields, options.split):
            if row["label"] not in ("yes", "no"):
                raise UserError(f"{where}: the label must be yes or no, not {row['label']!r}")
            identifier = normal_id(row["question_id"], where)
            image, true = str(row["image"]), row["label"] == "yes"
            groups = {"set": str(row["category"])} if row.get("category") else {}
            samples.append(Sample(identifier, str(row["text"]), reference=true, cluster=image, groups=groups))
        return unique_ids(samples, annotations)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        """Unread is what has neither yes nor no, whatever the rule makes of it."""
        said = text_of(prediction)
        return float(_READ_POPE[rule](said) is sample.reference), first_verdict(said) is not None

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Accuracy, precision, recall, F1 and the yes-ratio of the predictions."""
        verdicts = [_READ_POPE[rule](text_of(answers[one.id])) if one.id in answers else None for one in samples]
        truths, images = [sample.reference for sample in samples], [sample.cluster for sample in samples]
        figures = yes_no_figures(truths, verdicts, images)
        del figures["accuracy"]  # the headline
        note = (
            "an answer with neither yes nor no counts as yes, as in POPE's script"
            if rule == "pope"
            else "an answer with neither yes nor no is wrong: a missed yes, or no right no"
        )
        result = super().score(samples, answers, rule, options)
        return replace(result, sub_scores={**figures, **result.sub_scores}, notes=(note,))

    def rekey(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> list[Prediction]:
        """Ids stay; an image or question named by a prediction must be the label's: all splits share their ids.

        POPE's own answers have no ids and go by their order; such that name the image go by image and question.
        """
        by_id = {sample.id: sample for sample in samples}
        asked = {(Path(sample.cluster).name, sample.prompt): sample.id for sample in samples}
        if any(not one.id for one in predictions):
            return _in_order(predictions, samples)
        predictions = [
            one if one.id in by_id else replace(one, id=asked.get((Path(one.id).name, _question(one)), one.id))
            for one in predictions
        ]
        for prediction in predictions:
            sample = by_id.get(prediction.id)
            image, question = prediction.fields.get("image"), prediction.fields.get("question")
            if sample and isinstance(image, str) and Path(image).name != Path(sample.cluster).name:
                raise UserError(
                    f"question {sample.id} is about {sample.cluster}, but its prediction names {image}: other answers?"
                )
            if sample and isinstance(question, str) and sample.prompt not in question and question not in sample.prompt:
                raise UserError(
                    f"question {sample.id} asks {sample.prompt!r}, but its prediction was to {question[:80]!r}: "
                    "the answers of another split?"
                )
        return list(predictions)

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """What POPE's script reads, with the ids that it does without."""
        asked = {sample.id: sample for sample in samples}
        rows = []
        for one in predictions:
            sample = asked[one.id]
            row = {"question_id": one.id, "image": sample.cluster, "question": sample.prompt, "answer": text_of(one)}
            rows.append(row)
        return rows


def _question(prediction: Prediction) -> str:
    return str(prediction.fields.get("question", prediction.fields.get("text", "")))


def _in_order(predictions: Sequence[Prediction], samples: Sequence[Sample]) -> list[Prediction]:
    """POPE's own answers under the ids of the labels in the same places, as its script puts them together."""
    if any(one.id for one in predictions):
        raise UserError("some predictions have an id and some have none; give all of them one, or none")
    if len(predictions) != len(samples):
        raise UserError(
            f"{len(predictions)} answers without ids to {len(samples)} questions: POPE's answers go by their order, "
            "and none may be missing"
        )
    for number, (one, sample) in enumerate(zip(predictions, samples, strict=True), start=1):
        if sample.prompt not in _question(one):
            raise UserError(
                f"record {number} answers {_question(one)[:80]!r}, but question {number} is {sample.prompt!r}: "
                "the answers of another split, or in another order?"
            )
    return [replace(one, id=sample.id) for one, sample in zip(predictions, samples, strict=True)]


class VSR(GradedBenchmark):
    """VSR: is the statement true? A sample's `reference` is whether it is, its id the row, counted from 0.

    Rules: `official` takes the first whole word true/false (or yes/no); `minigpt4` wants exactly "true" or "false".
    """

    name: ClassVar[str] = "vsr"
    rules: ClassVar[tuple[str, ...]] = ("official", "minigpt4")
    prompt_field: ClassVar[str] = "caption"
    coco_images: ClassVar[bool] = True

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """The label lines of a split: image, caption, label (0 or 1), relation."""
        samples = []
        rows = read_records(annotations, self.name, {"image", "caption", "label"}, options.split)
        for number, (where, row) in enumerate(rows):
            if row["label"] not in (0, 1):
                raise UserError(f"{where}: the label must be 0 or 1, not {row['label']!r}")
            identifier = normal_id(row.get("question_id", row.get("id", number)), where)
            groups = {"relation": str(row["relation"])} if row.get("relation") else {}
            image, true = str(row["image"]), bool(row["label"])
            samples.append(Sample(identifier, str(row["caption"]), reference=true, cluster=image, groups=groups))
        return unique_ids(samples, annotations)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        verdict = _truth(text_of(prediction), rule)
        return float(verdict is sample.reference), verdict is not None

    def rekey(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> list[Prediction]:
        """Results may name image and caption instead of the row."""
        rows = {(sample.cluster, sample.prompt): sample.id for sample in samples}
        return [
            replace(prediction, id=rows.get((prediction.id, str(prediction.fields.get("caption"))), prediction.id))
            for prediction in predictions
        ]


class HatefulMemes(GradedBenchmark):
    """HatefulMemes; a sample's `reference` is whether the meme is hateful.

    Rules: `official` reads the first whole word yes or no, and adds the area under the ROC curve from P(yes) where
    predictions have a `score`; `minigpt4` wants exactly "yes" or "no".
    """

    name: ClassVar[str] = "hatefulmemes"
    rules: ClassVar[tuple[str, ...]] = ("official", "minigpt4")
    prompt_field: ClassVar[str] = "text"

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """The label lines of a split: id, img, label (0 or 1), text."""
        samples = []
        for where, row in read_records(annotations, self.name, {"id", "img", "label", "text"}, options.split):
            if row["label"] not in (0, 1):
                raise UserError(f"{where}: the label must be 0 or 1, not {row['label']!r}")
            samples.append(
                Sample(
                    normal_id(row["id"], where),
                    str(row["text"]),
                    reference=bool(row["label"]),
                    candidates=("yes", "no"),
                    cluster=str(row["img"]),
                )
            )
        return unique_ids(samples, annotations)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        """From the words, or from P(yes) >= 0.5 where there are none."""
        verdict: bool | None
        if prediction.answer is None and prediction.score is not None:
            verdict = prediction.score >= 0.5
        else:
            verdict = (first_verdict if rule == "official" else _exact)(text_of(prediction))
        return float(verdict is sample.reference), verdict is not None

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Accuracy, and AUROC where every prediction has P(yes)."""
        result = super().score(samples, answers, rule, options)
        scores = [answers[one.id].score for one in samples if one.id in answers]
        known = [float(score) for score in scores if score is not None]
        if len(known) < len(samples):
            return replace(result, notes=("no AUROC: it needs P(yes) in the field `score` of every prediction",))
        truths, images = [sample.reference for sample in samples], [sample.cluster for sample in samples]
        area = bootstrap_weighted(lambda weights: 100 * auroc(truths, known, weights), images)
        return replace(result, sub_scores={**result.sub_scores, "auroc": area})

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """The official proba and label beside the words."""
        return [
            {"id": one.id, "proba": one.score, "label": int(first_verdict(text_of(one)) is True), "answer": one.answer}
            for one in predictions
        ]


def _exact(answer: str) -> bool | None:
    return {"yes": True, "no": False}.get(normalise.minigpt4(answer))


def _truth(answer: str, rule: str) -> bool | None:
    if rule == "minigpt4":
        return {"true": True, "false": False}.get(normalise.minigpt4(answer))
    verdict = first_verdict(answer, "true", "false")
    return first_verdict(answer) if verdict is None else verdict


_READ_POPE: dict[str, Callable[[str], bool | None]] = {
    "pope": pope_verdict,
    "strict": first_verdict,
    "minigpt4": _exact,
}
