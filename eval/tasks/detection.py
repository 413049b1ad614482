"""Detection by name: where is every dog?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from fourfold.eval.predictions import Prediction
from fourfold.eval.scorers.boxes import check_units, iou, match_boxes
from fourfold.eval.scorers.precision_recall import precision_recall
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.eval.tasks.benchmark import Benchmark, Drawing, Item, Options, RuleScore, mean_by_group, text_of
from fourfold.eval.tasks.regions import predicted_boxes, read_regions

_THRESHOLDS = {"iou_50": 0.5, "iou_75": 0.75}


class Detection(Benchmark):
    """Detection; an item's `reference` is a `Region`, without boxes where the thing is not in the image.

    Rules: `iou_50` and `iou_75`, by the IoU from which a box has found a true one; every true box is found once. Models
    that write boxes give them no confidence, so there is no average precision.
    """

    name: ClassVar[str] = "detection"
    rules: ClassVar[tuple[str, ...]] = ("iou_50", "iou_75")
    max_tokens: ClassVar[int] = 200

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """A line a label (`label`, `boxes`, perhaps none), or a line an image with `boxes` of `box` and `label`."""
        return read_regions(annotations, "detection", "label", "boxes")

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Mean F1 of a question; precision, recall and F1 over all boxes; how often the absent was left unboxed.

        A question's F1 is 2 x right / (written + true), and 1 where there is nothing to find and no box was written.
        """
        check_units((box for one in answers.values() for box in one.boxes or ()), options.box_format)
        values: dict[str, float] = {}
        columns: list[list[float]] = []
        failures = 0
        for item in items:
            truths, prediction = item.reference.boxes, answers.get(item.id)
            found = predicted_boxes(prediction, item.reference, options.box_format)
            right = match_boxes(found, truths, _THRESHOLDS[rule], overlap=iou)
            total = len(found) + len(truths)
            values[item.id] = 2 * right / total if total else float(prediction is not None)
            columns.append([right, len(found), right, len(truths)])
            failures += prediction is not None and not found and not _denies(prediction)
        overall, groups = mean_by_group(items, values)
        sub_scores: dict[str, Estimate | float] = dict(groups)
        images = [item.image for item in items]
        figures = precision_recall(list(zip(*columns, strict=True)), images)
        sub_scores |= {f"{name} over all boxes": figure for name, figure in figures.items()}
        absent = [(row[1], item.image) for row, item in zip(columns, items, strict=True) if not item.reference.boxes]
        if absent:
            unboxed = [float(not written) for written, _ in absent]
            sub_scores["absent left unboxed"] = clustered_mean(unboxed, [image for _, image in absent])
        return RuleScore(rule, "f1 a question", overall, values, sub_scores, failures)

    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The label."""
        return {"label": item.question}

    def drawing(self, item: Item, prediction: Prediction | None, options: Options) -> Drawing | None:
        """All boxes, true and predicted."""
        region = item.reference
        found = predicted_boxes(prediction, region, options.box_format)
        return Drawing((region.width, region.height), region.boxes, tuple(found))


def _denies(prediction: Prediction) -> bool:
    """Whether an answer without boxes says so on purpose, in words or as an empty list."""
    return prediction.boxes is not None or text_of(prediction).strip(" .!").lower() in ("none", "no", "[]", "nothing")
