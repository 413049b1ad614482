"""RefCOCO, RefCOCO+ and RefCOCOg: pointing at what an expression means."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fourfold.assistant.grounding import BoxFormat
from fourfold.eval.benchmarks.benchmark import (
    Answers,
    Benchmark,
    Drawing,
    Options,
    RuleScore,
    box_notes,
    check_box_units,
    mean_by_group,
    predicted_boxes,
    read_records,
    text_of,
    unique_ids,
)
from fourfold.eval.predictions import Prediction, normal_id
from fourfold.eval.scorers.boxes import Pixels, iou, read_box_minigpt4, size_class
from fourfold.eval.statistics import Estimate, bootstrap
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

SPLITS = {
    "refcoco": {"val": 10834, "testA": 5657, "testB": 5095},
    "refcoco+": {"val": 10758, "testA": 5726, "testB": 4889},
    "refcocog": {"val": 4896, "test": 9602},
}
"""How many expressions each official split has: the denominator of a number that calls itself by that split."""


@dataclass(frozen=True)
class Referent:
    """What an expression means: its box in pixels, the image's size, and the official referent id (`img_id`)."""

    box: Pixels
    width: int
    height: int
    referent: str


class RefCOCO(Benchmark):
    """One of the three; a sample's `reference` is a `Referent`, its id the row of the annotation file, counted from 0.

    Rules: `official` takes the first box of the answer and asks for a continuous IoU >= 0.5; `minigpt4` takes a box at
    the very start of the answer and asks for an IoU > 0.5 with the last pixel counted in, as MiniGPT-v2's script does.
    """

    rules: ClassVar[tuple[str, ...]] = ("official", "minigpt4")
    prompt_field: ClassVar[str] = "sent"
    coco_images: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """Records with img_id (the referent), sents, bbox (xywh pixels), height, width; `image` if img_id lacks it."""
        records = read_records(annotations, self.name, {"img_id", "sents", "bbox", "height", "width"}, options.split)
        for family, splits in SPLITS.items():
            for split, count in splits.items():
                if family != self.name and len(records) == count:
                    raise UserError(f"{annotations} has {count} expressions: that is {family} {split}, not {self.name}")
        rows = ((number, record) for number, (_, record) in enumerate(records))  # their numbers are the samples' ids
        return unique_ids((_sample(n, record, f"{annotations.name}, record {n}") for n, record in rows), annotations)

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """acc@0.5 in percent; mean IoU (0..1), both by object size; answers without a usable box count as wrong."""
        check_box_units(answers, options.box_format)
        ious: dict[str, float] = {}
        failures = 0
        for sample in samples:
            prediction = answers.get(sample.id)
            box = None if prediction is None else predicted_box(prediction, sample.reference, rule, options.box_format)
            failures += prediction is not None and box is None
            ious[sample.id] = 0.0 if box is None else iou(box, sample.reference.box, int(rule == "minigpt4"))
        values = {key: float(value >= 0.5 if rule == "official" else value > 0.5) for key, value in ious.items()}
        overall, groups = mean_by_group(samples, values)
        sub_scores: dict[str, Estimate | float] = dict(groups)
        columns = [[values[one.id] for one in samples], [1.0] * len(samples)]
        percent = bootstrap(columns, [one.cluster for one in samples], lambda sums: 100 * sums[:, 0] / sums[:, 1])
        sub_scores["acc@0.5 (bootstrap)"] = percent
        mean_iou, by_size = mean_by_group(samples, {key: min(value, 1.0) for key, value in ious.items()}, scale=1.0)
        sub_scores["mean_iou (0..1)"] = mean_iou
        sub_scores |= {f"mean_iou (0..1)/{name.removeprefix('size/')}": figure for name, figure in by_size.items()}
        notes = box_notes(answers, options.box_format)
        return RuleScore(rule, "acc@0.5", overall, values, sub_scores, failures, notes)

    def rekey(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> list[Prediction]:
        """Results may name the referent (`img_id`) instead of the row; with `sents` beside it, the expression too.

        Rows of one referent share their box, so which of them gets which answer cannot change the score where `sents`
        is not given.
        """
        if len(predictions) == len(samples) and {one.id for one in predictions} == {one.id for one in samples}:
            return list(predictions)  # every row by its number; referents of copies on the Hub are small numbers too
        rows: dict[str, list[str]] = defaultdict(list)
        for sample in samples:
            rows[sample.reference.referent].append(sample.id)
            rows[f"{sample.reference.referent}: {sample.prompt}"].append(sample.id)
        taken: dict[str, int] = defaultdict(int)
        result = []
        for prediction in predictions:
            key = prediction.id
            if key not in rows:
                result.append(prediction)
                continue
            words = prediction.fields.get("sents", prediction.fields.get("sent"))
            if isinstance(words, str):
                key = f"{key}: {words}"
            place = taken[key]
            taken[key] += 1
            found = rows.get(key, [])
            # One answer too many, or an expression that this referent does not have, stays under a name that no row
            # has.
            result.append(replace(prediction, id=found[place] if place < len(found) else f"{key} (answer {place + 1})"))
        return result

    def drawing(self, sample: Sample, prediction: Prediction | None, options: Options) -> Drawing | None:
        """The referent's box and the one that the official rule reads."""
        referent = sample.reference
        box = predicted_box(prediction, referent, "official", options.box_format) if prediction else None
        return Drawing((referent.width, referent.height), (referent.box,), (box,) if box else ())

    def facts(self, samples: Sequence[Sample], options: Options) -> dict[str, Any]:
        """Which split this is, by its denominator, and how boxes were read."""
        split = next((split for split, count in SPLITS[self.name].items() if count == len(samples)), None)
        images = {sample.cluster for sample in samples}
        return {
            "split": split or "no full official split",
            "expressions": len(samples),
            "images": len(images),
            "box_format": str(options.box_format or "tokens in text, pixels as numbers"),
        }


def predicted_box(prediction: Prediction, referent: Referent, rule: str, declared: BoxFormat | None) -> Pixels | None:
    """The predicted box in pixels under `rule`, or None: where the first cannot be used, no other takes its place."""
    width, height = referent.width, referent.height
    if rule == "minigpt4" and prediction.boxes is None and declared in (None, BoxFormat.TOKENS):
        return read_box_minigpt4(text_of(prediction), width, height)
    return next(iter(predicted_boxes(prediction, declared, width, height)), None)


_FAR = 1e9
"""Beyond any picture; no NaN and no whole number too large for a float is below it."""


def _sample(number: int, record: Mapping[str, Any], where: str) -> Sample:
    box, width, height = record["bbox"], record["width"], record["height"]
    numbers = [*box, width, height] if isinstance(box, list) and len(box) == 4 else []
    if not numbers or not all(isinstance(n, (int, float)) and abs(n) < _FAR for n in numbers):
        raise UserError(f"{where}: bbox, width and height must be finite numbers, got {box}, {width}, {height}")
    x, y, w, h = map(float, box)
    if w <= 0 or h <= 0 or width <= 0 or height <= 0:
        raise UserError(f"{where}: the box {box} in an image of {width} x {height} has no area")
    referent = normal_id(record["img_id"], where)
    image = str(record.get("image") or (referent.rsplit("_", 1)[0] if referent.count("_") > 2 else referent))
    reference = Referent((x, y, x + w, y + h), int(width), int(height), referent)
    groups = {"size": size_class(w * h / (width * height))}
    return Sample(str(number), str(record["sents"]), reference=reference, cluster=image, groups=groups)
