"""What every benchmark shares: its items, the result of a rule, and what a benchmark must be able to do."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fourfold.eval.predictions import Prediction
from fourfold.eval.scorers.boxes import BoxFormat, Pixels
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: as text; unique in the benchmark.
        image: the image's name, which is also the cluster of the statistics.
        question: the words that the prompt is made of ("" where only annotations are at hand).
        reference: what the benchmark's rules compare an answer with; each benchmark says what that is.
        groups: kind of group -> the item's group, for sub-scores.
        candidates: the choices, for benchmarks that rank.
    """

    id: str
    image: str
    question: str
    reference: Any
    groups: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """Boxes to look at, x1, y1, x2, y2 in pixels of an annotated image of `size` (width, height)."""

    size: tuple[int, int]
    truth: tuple[Pixels, ...]
    predicted: tuple[Pixels, ...]


@dataclass(frozen=True)
class Options:
    """What a user may declare: the ground truth's field in VQA files, and how the model writes boxes."""

    gt_field: str = "answer"
    box_format: BoxFormat | None = None


@dataclass(frozen=True)
class RuleScore:
    """A benchmark under one rule.

    Attributes:
        rule: its name; a number without it means nothing.
        metric: what `headline` measures.
        headline: in percent.
        sub_scores: name -> figure; an Estimate in percent unless the name says otherwise, or a plain number.
        parse_failures: answers out of which nothing could be read; they count as wrong.
        by_item: item id -> 0..1, what the headline averages, for paired comparison and for looking at failures.
        notes: what a reader must know, a sentence each.
    """

    rule: str
    metric: str
    headline: Estimate
    by_item: Mapping[str, float]
    sub_scores: Mapping[str, Estimate | float] = field(default_factory=dict)
    parse_failures: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the single items."""
        return {
            "rule": self.rule,
            "metric": self.metric,
            **self.headline.to_json(),
            "parse_failures": self.parse_failures,
            "sub_scores": {
                name: figure.to_json() if isinstance(figure, Estimate) else figure
                for name, figure in self.sub_scores.items()
            },
            "notes": list(self.notes),
        }


class Benchmark(ABC):
    """A benchmark: reading its files, asking its questions, scoring answers under its rules.

    Attributes:
        name: as the command line and `prompts.benchmarks` call it.
        rules: those that are shown, the headline's first.
        max_tokens: that an answer may take; MiniGPT-v2's evaluation has 20 everywhere.
    """

    name: ClassVar[str]
    rules: ClassVar[tuple[str, ...]]
    max_tokens: ClassVar[int] = 20

    @property
    def known_rules(self) -> tuple[str, ...]:
        """All rules that can be asked for by name."""
        return self.rules

    @abstractmethod
    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """Items of the official files; UserError where these are not this benchmark's."""

    @abstractmethod
    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Score under one of `known_rules`; ids in `items` without an answer (allowed missing ones) are wrong."""

    @abstractmethod
    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The fields of `prompts.benchmarks.benchmark_prompt` for this item."""

    def rekey(self, predictions: Sequence[Prediction], items: Sequence[Item]) -> list[Prediction]:
        """Predictions under the items' ids, for benchmarks whose official results name something else than an id."""
        return list(predictions)

    def read_questions(self, questions: Path) -> list[Item]:
        """Items of a test split, which has no answers; UserError for benchmarks that have none such."""
        raise UserError(f"{self.name} has no test split to submit; give --annotations")

    def submission(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Predictions in the benchmark's own result format (EvalAI's for VQA), which `eval score` reads too."""
        return [{"question_id": _number(prediction.id), "answer": text_of(prediction)} for prediction in predictions]

    def drawing(self, item: Item, prediction: Prediction | None, options: Options) -> Drawing | None:
        """True and predicted boxes for the report; None where a benchmark is not about places."""
        return None

    def facts(self, items: Sequence[Item]) -> dict[str, Any]:
        """What the result should say about the files, such as the split that they are."""
        return {}


def mean_by_group(items: Sequence[Item], values: Mapping[str, float]) -> tuple[Estimate, dict[str, Estimate]]:
    """The clustered mean over all items and over each of their groups, as "kind/group"."""
    overall = clustered_mean([values[item.id] for item in items], [item.image for item in items])
    members: dict[str, list[Item]] = {}
    for item in items:
        for kind, group in item.groups.items():
            members.setdefault(f"{kind}/{group}", []).append(item)
    return overall, {
        name: clustered_mean([values[item.id] for item in group], [item.image for item in group])
        for name, group in sorted(members.items())
    }


def text_of(prediction: Prediction | None) -> str:
    """The answer's text; "" where there is none."""
    return prediction.answer or "" if prediction is not None else ""


def _number(identifier: str) -> int | str:
    """Official files have whole numbers where the id is one."""
    return int(identifier) if identifier.isascii() and identifier.isdecimal() else identifier


def unique_ids(items: Iterable[Item], path: Path) -> list[Item]:
    """The items, once it is sure that no id occurs twice."""
    found = list(items)
    seen: set[str] = set()
    twice = sorted({item.id for item in found if item.id in seen or seen.add(item.id)})  # type: ignore[func-returns-value]
    if twice:
        raise UserError(f"{path}: {len(twice)} question ids occur more than once, such as {twice[0]}")
    if not found:
        raise UserError(f"{path} holds no questions")
    return found
