"""Phrase grounding, as on Flickr30k Entities: where in the image is what a phrase of a caption means?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from fourfold.eval.predictions import Prediction
from fourfold.eval.scorers.boxes import check_units, iou, match_boxes
from fourfold.eval.scorers.precision_recall import precision_recall
from fourfold.eval.statistics import clustered_mean
from fourfold.eval.tasks.benchmark import Benchmark, Drawing, Item, Options, RuleScore, mean_by_group
from fourfold.eval.tasks.regions import hull, predicted_boxes, read_regions
from fourfold.prompts.errors import UserError


class PhraseGrounding(Benchmark):
    """Phrase grounding; an item's `reference` is a `Region` with at least one box.

    The two protocols of Flickr30k Entities (Plummer et al. 2015; named so by Kamath et al. 2021): under `any_box` the
    first box of the answer must have IoU >= 0.5 with some box of the phrase, under `merged_boxes` with the smallest box
    around all of them.
    """

    name: ClassVar[str] = "phrase-grounding"
    rules: ClassVar[tuple[str, ...]] = ("any_box", "merged_boxes")
    max_tokens: ClassVar[int] = 60

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """A line a phrase (`phrase`, `boxes`), or a line an image with `phrases`."""
        items = read_regions(annotations, "phrase grounding", "phrase", "phrases")
        empty = [item for item in items if not item.reference.boxes]
        if len(empty) == len(items):
            raise UserError(f"{annotations}: no phrase has a box; what is not there belongs to detection")
        return [item for item in items if item.reference.boxes]

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """acc@0.5 of the first box (recall@1); mean IoU (0..1); precision, recall and F1 of all boxes."""
        check_units((box for one in answers.values() for box in one.boxes or ()), options.box_format)
        overlaps: dict[str, float] = {}
        columns: list[list[float]] = []
        failures = 0
        for item in items:
            region = item.reference
            truths = region.boxes if rule == "any_box" else (hull(region.boxes),)
            found = predicted_boxes(answers.get(item.id), region, options.box_format)
            failures += item.id in answers and not found
            overlaps[item.id] = max((iou(found[0], truth) for truth in truths), default=0.0) if found else 0.0
            right = match_boxes(found, truths, overlap=iou)
            columns.append([right, len(found), right, len(truths)])
        values = {identifier: float(overlap >= 0.5) for identifier, overlap in overlaps.items()}
        overall, groups = mean_by_group(items, values)
        images = [item.image for item in items]
        mean_iou = clustered_mean([overlaps[item.id] for item in items], images, scale=1.0)
        figures = precision_recall(list(zip(*columns, strict=True)), images)
        return RuleScore(rule, "acc@0.5", overall, values, {**groups, "mean_iou (0..1)": mean_iou, **figures}, failures)

    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The phrase."""
        return {"sent": item.question}

    def drawing(self, item: Item, prediction: Prediction | None, options: Options) -> Drawing | None:
        """The phrase's boxes and all of the answer."""
        region = item.reference
        found = predicted_boxes(prediction, region, options.box_format)
        return Drawing((region.width, region.height), region.boxes, tuple(found))
