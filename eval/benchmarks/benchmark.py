"""What every benchmark shares: the result of a rule, and what a benchmark must be able to do."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fourfold.assistant.grounding import BoxFormat
from fourfold.eval.data.official import read_content
from fourfold.eval.predictions import Prediction
from fourfold.eval.scorers.boxes import Pixels, check_units, read_boxes, reading_notes, scale_box
from fourfold.eval.scorers.choice import Choice
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

Answers = Mapping[str, Prediction]
"""Predictions by sample id."""


@dataclass(frozen=True)
class Drawing:
    """Boxes to look at, x1, y1, x2, y2 in pixels of an annotated image of `size` (width, height)."""

    size: tuple[int, int]
    truth: tuple[Pixels, ...]
    predicted: tuple[Pixels, ...]


@dataclass(frozen=True)
class Options:
    """What a user may declare: the ground truth's field in VQA files, how the model writes boxes, a table's split."""

    gt_field: str = "answer"
    box_format: BoxFormat | None = None
    split: str | None = None


@dataclass(frozen=True)
class RuleScore:
    """A benchmark under one rule.

    Attributes:
        rule: its name; a number without it means nothing.
        metric: what `headline` measures.
        headline: in percent.
        sub_scores: name -> figure; an Estimate in percent unless the name says otherwise, or a plain number.
        parse_failures: answers out of which nothing could be read; they count as wrong.
        by_sample: sample id -> 0..1, what the headline averages, for paired comparison and for looking at failures.
        notes: what a reader must know, a sentence each.
    """

    rule: str
    metric: str
    headline: Estimate
    by_sample: Mapping[str, float]
    sub_scores: Mapping[str, Estimate | float] = field(default_factory=dict)
    parse_failures: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the single samples."""
        shown = {name: one.to_json() if isinstance(one, Estimate) else one for name, one in self.sub_scores.items()}
        return {
            "rule": self.rule,
            "metric": self.metric,
            **self.headline.to_json(),
            "parse_failures": self.parse_failures,
            "sub_scores": shown,
            "notes": list(self.notes),
        }


class Benchmark(ABC):
    """A benchmark: reading its files, asking its questions, scoring answers under its rules.

    Attributes:
        name: as the command line and `prompts.benchmarks` call it.
        rules: those that are shown, the headline's first.
        max_tokens: that an answer may take; MiniGPT-v2's evaluation has 20 everywhere.
        metric: what the headline measures.
        prompt_field: what `prompts.benchmarks` calls the words that a prompt is made of.
        coco_images: its images are COCO's, whose files are known by their number too.
        result_lines: its own result files are JSON Lines.
    """

    name: ClassVar[str]
    rules: ClassVar[tuple[str, ...]]
    max_tokens: ClassVar[int] = 20
    metric: ClassVar[str] = "accuracy"
    prompt_field: ClassVar[str] = "question"
    coco_images: ClassVar[bool] = False
    result_lines: ClassVar[bool] = False

    @property
    def known_rules(self) -> tuple[str, ...]:
        """All rules that can be asked for by name."""
        return self.rules

    @abstractmethod
    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """Samples of the official files; UserError where these are not this benchmark's."""

    @abstractmethod
    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Score under one of `known_rules`; ids in `samples` without an answer (allowed missing ones) are wrong."""

    def rekey(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> list[Prediction]:
        """Predictions under the samples' ids, for benchmarks whose official results name something else than an id."""
        return list(predictions)

    def read_questions(self, questions: Path) -> list[Sample]:
        """Samples of a test split, which has no answers; UserError for benchmarks that have none such."""
        raise UserError(f"{self.name} has no test split to submit; give --annotations")

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Predictions in the benchmark's own result format (EvalAI's for VQA), which `eval score` reads too.

        Written as one list, or a line each where `result_lines`.
        """
        return [{"question_id": _number(prediction.id), "answer": text_of(prediction)} for prediction in predictions]

    def drawing(self, sample: Sample, prediction: Prediction | None, options: Options) -> Drawing | None:
        """True and predicted boxes for the report; None where a benchmark is not about places."""
        return None

    def facts(self, samples: Sequence[Sample], options: Options) -> dict[str, Any]:
        """What the result should say about the files, such as the split that they are, and how they were read."""
        return {}


class GradedBenchmark(Benchmark):
    """A benchmark whose score is the mean of the single answers' scores."""

    @abstractmethod
    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        """One answer's score, 0..1, under one of `known_rules`, and whether anything could be read out of it."""

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """The mean, over all samples and by group."""
        grades = {one.id: self.grade(one, answers[one.id], rule) for one in samples if one.id in answers}
        values = {one.id: grades[one.id][0] if one.id in grades else 0.0 for one in samples}
        overall, groups = mean_by_group(samples, values)
        return RuleScore(rule, self.metric, overall, values, groups, sum(not read for _, read in grades.values()))


def mean_by_group(
    samples: Sequence[Sample], values: Mapping[str, float], *, scale: float = 100.0
) -> tuple[Estimate, dict[str, Estimate]]:
    """The clustered mean over all samples and over each of their groups, as "kind/group"."""

    def mean(some: Sequence[Sample]) -> Estimate:
        return clustered_mean([values[one.id] for one in some], [one.cluster for one in some], scale=scale)

    members: dict[str, list[Sample]] = {}
    for sample in samples:
        for kind, group in sample.groups.items():
            members.setdefault(f"{kind}/{group}", []).append(sample)
    return mean(samples), {name: mean(group) for name, group in sorted(members.items())}


def text_of(prediction: Prediction | None) -> str:
    """The answer's text; "" where there is none."""
    return prediction.answer or "" if prediction is not None else ""


def check_box_units(answers: Answers, declared: BoxFormat | None) -> None:
    """UserError where the numbers of all predicted boxes cannot be meant as declared."""
    check_units((box for one in answers.values() for box in one.boxes or ()), declared)


def box_notes(answers: Answers, declared: BoxFormat | None) -> tuple[str, ...]:
    """How boxes in words were read, where a reader must know it."""
    return reading_notes((text_of(one) for one in answers.values() if one.boxes is None), declared)


def predicted_boxes(prediction: Prediction, declared: BoxFormat | None, width: int, height: int) -> list[Pixels | None]:
    """All boxes of a prediction in pixels, in its order; None for one that cannot be used.

    Without a declared format, text is read as 0..100 tokens and numbers of the file as pixels.
    """
    if prediction.boxes is None:
        return read_boxes(text_of(prediction), declared or BoxFormat.TOKENS, width, height)
    return [scale_box(numbers, declared, width, height) for numbers in prediction.boxes]


def right_answer(sample: Sample) -> str:
    """The right answer in words, the most frequent where annotators differ; "" for boxes and where none is known."""
    reference = sample.reference
    if isinstance(reference, Choice):
        return reference.text
    if isinstance(reference, bool):
        return "yes" if reference else "no"
    if isinstance(reference, int):
        return sample.candidates[reference]
    if isinstance(reference, tuple):
        return Counter(reference).most_common(1)[0][0] if reference else ""
    if isinstance(reference, dict):
        return str(reference.get("answer", ""))
    return ""


def _number(identifier: str) -> int | str:
    """Official files have whole numbers where the id is one; 007 is none, since 7 is another question's."""
    return int(identifier) if identifier.isdecimal() and str(int(identifier)) == identifier else identifier


def read_records(
    path: Path, name: str, fields: set[str], split: str | None = None
) -> list[tuple[str, Mapping[str, Any]]]:
    """The records of a benchmark's file or table, each with its place for error messages; all have the `fields`."""
    content = read_content(path, name, f"{name} annotations", split)
    rows = [content] if isinstance(content, Mapping) else content
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and fields <= set(row) for row in rows):
        raise UserError(
            f"{path} is no annotation file of {name}: expected a list of records, or one a line, with "
            f"{', '.join(sorted(fields))}"
        )
    return [(f"{path.name}, record {number}", row) for number, row in enumerate(rows, start=1)]


def unique_ids(samples: Iterable[Sample], path: Path) -> list[Sample]:
    """The samples, once it is sure that no id occurs twice."""
    found = list(samples)
    twice = sorted(key for key, count in Counter(sample.id for sample in found).items() if count > 1)
    if twice:
        raise UserError(f"{path}: {len(twice)} question ids occur more than once, such as {twice[0]}")
    if not found:
        raise UserError(f"{path} holds no questions")
    return found
