"""Where is what a phrase means: phrase grounding, as on Flickr30k Entities, and detection by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    text_of,
    unique_ids,
)
from fourfold.eval.data.official import read_content
from fourfold.eval.predictions import Prediction, normal_id
from fourfold.eval.scorers.boxes import Pixels, iou, match_boxes, size_class
from fourfold.eval.scorers.precision_recall import precision_recall
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

_THRESHOLDS = {"iou_50": 0.5, "iou_75": 0.75}


@dataclass(frozen=True)
class Region:
    """What a phrase means: its boxes in pixels (none where it is not in the image), and the image's size."""

    boxes: tuple[Pixels, ...]
    width: int
    height: int


def read_regions(path: Path, what: str, word: str, listed: str, split: str | None = None) -> list[Sample]:
    """Samples of a file with an image a line; a sample's `reference` is a `Region`, its question the phrase.

    A line is either one phrase (`image`, `width`, `height`, the phrase under `word`, `boxes` as x1, y1, x2, y2 in
    pixels) or an image with several of them under `listed`: records with the phrase under `word` and either `boxes` or
    one `box`. What is said twice about an image is asked once, with the boxes of both. Records that say that they are
    of the split "train" are left out.

    Raises:
        UserError: for any other file, NaN, a box without area, or an id that stands twice.
    """
    content = read_content(path, what, f"{what} annotations", split)
    records = [content] if isinstance(content, Mapping) else content
    shape = f"a record a line with image, width, height, and {word} and boxes (or {listed})"
    if not isinstance(records, list) or not all(
        isinstance(record, Mapping) and {"image", "width", "height"} <= set(record) and {word, listed} & set(record)
        for record in records
    ):
        raise UserError(f"{path} is no annotation file of {what}: expected {shape}")
    chosen = [(number, record) for number, record in enumerate(records, start=1) if record.get("split") != "train"]
    if records and not chosen:
        raise UserError(f"{path}: every record is of the split train; {what} is measured on what is held out")
    return unique_ids(
        (sample for number, record in chosen for sample in _samples(record, number, path, word, listed)), path
    )


def _samples(record: Mapping[str, Any], number: int, path: Path, word: str, listed: str) -> Iterator[Sample]:
    where, image = f"{path.name}, line {number}", str(record["image"])
    entries = [record] if word in record else record[listed]
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) and one.get(word) for one in entries):
        raise UserError(f"{where}: {listed} must be a list of records with {word}")
    size = (record["width"], record["height"])
    if not all(isinstance(side, int) and 0 < side < 1e9 for side in size):
        raise UserError(f"{where}: width and height must be whole numbers of pixels, got {size[0]!r}, {size[1]!r}")
    phrases: dict[str, tuple[str, dict[Pixels, None], str]] = {}
    for entry in entries:
        phrase = str(entry[word]).strip()
        boxes = entry.get("boxes", [entry["box"]] if "box" in entry else None)
        if not isinstance(boxes, list):
            raise UserError(f"{where}: {phrase!r} has no boxes; an empty list says that it is not there")
        types = entry.get("types") or [""]
        _, known, _ = phrases.setdefault(phrase.casefold(), (phrase, {}, str(types[0])))
        known.update(dict.fromkeys(_box(box, where) for box in boxes))
    for phrase, found, kind in phrases.values():
        region = Region(tuple(found), *size)
        groups = {"boxes": {0: "none", 1: "one"}.get(len(found), "several")}
        if found:
            x1, y1, x2, y2 = hull(region.boxes)
            groups["size"] = size_class((x2 - x1) * (y2 - y1) / (size[0] * size[1]))
        if kind:
            groups["type"] = kind
        alone = len(entries) == 1 and word in record
        identifier = record.get("question_id", record.get("id")) if alone else None
        name = normal_id(identifier, where) if identifier is not None else f"{image}: {phrase}"
        yield Sample(name, phrase, reference=region, cluster=image, groups=groups)


def _box(numbers: Any, where: str) -> Pixels:
    if (
        not isinstance(numbers, list)
        or len(numbers) != 4
        # Nor NaN, nor a whole number too large for a float.
        or not all(isinstance(n, (int, float)) and abs(n) < 1e9 for n in numbers)
    ):
        raise UserError(f"{where}: a box is four finite numbers x1, y1, x2, y2 in pixels, got {numbers}")
    x1, y1, x2, y2 = map(float, numbers)
    if x1 >= x2 or y1 >= y2:
        raise UserError(f"{where}: the box {numbers} has no area; it should be x1, y1, x2, y2")
    return x1, y1, x2, y2


def hull(boxes: tuple[Pixels, ...]) -> Pixels:
    """The smallest box around all."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def usable_boxes(prediction: Prediction | None, region: Region, declared: BoxFormat | None) -> list[Pixels]:
    """All boxes of a prediction that can be used, in pixels; none where there is no prediction."""
    found = predicted_boxes(prediction, declared, region.width, region.height) if prediction else []
    return [box for box in found if box is not None]


class RegionBenchmark(Benchmark):
    """What phrase grounding and detection share."""

    def drawing(self, sample: Sample, prediction: Prediction | None, options: Options) -> Drawing | None:
        """All boxes, true and predicted."""
        region = sample.reference
        found = usable_boxes(prediction, region, options.box_format)
        return Drawing((region.width, region.height), region.boxes, tuple(found))


class PhraseGrounding(RegionBenchmark):
    """Phrase grounding; a sample's `reference` is a `Region` with at least one box.

    The two protocols of Flickr30k Entities (Plummer et al. 2015; named so by Kamath et al. 2021): under `any_box` the
    first box of the answer must have IoU >= 0.5 with some box of the phrase, under `merged_boxes` with the smallest box
    around all of them.
    """

    name: ClassVar[str] = "phrase-grounding"
    rules: ClassVar[tuple[str, ...]] = ("any_box", "merged_boxes")
    prompt_field: ClassVar[str] = "sent"
    max_tokens: ClassVar[int] = 60

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """A line a phrase (`phrase`, `boxes`), or a line an image with `phrases`."""
        samples = read_regions(annotations, "phrase grounding", "phrase", "phrases", options.split)
        empty = [sample for sample in samples if not sample.reference.boxes]
        if len(empty) == len(samples):
            raise UserError(f"{annotations}: no phrase has a box; what is not there belongs to detection")
        return [sample for sample in samples if sample.reference.boxes]

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """acc@0.5 of the first box (recall@1); mean IoU (0..1); precision, recall and F1 of all boxes."""
        check_box_units(answers, options.box_format)
        overlaps: dict[str, float] = {}
        columns: list[list[float]] = []
        failures = 0
        for sample in samples:
            region = sample.reference
            truths = region.boxes if rule == "any_box" else (hull(region.boxes),)
            found = usable_boxes(answers.get(sample.id), region, options.box_format)
            failures += sample.id in answers and not found
            overlaps[sample.id] = max((iou(found[0], truth) for truth in truths), default=0.0) if found else 0.0
            right = match_boxes(found, truths, overlap=iou)
            columns.append([right, len(found), right, len(truths)])
        values = {identifier: float(overlap >= 0.5) for identifier, overlap in overlaps.items()}
        overall, groups = mean_by_group(samples, values)
        images = [sample.cluster for sample in samples]
        mean_iou = clustered_mean([overlaps[sample.id] for sample in samples], images, scale=1.0)
        figures = precision_recall(list(zip(*columns, strict=True)), images)
        sub_scores: dict[str, Estimate | float] = {**groups, "mean_iou (0..1)": mean_iou, **figures}
        notes = box_notes(answers, options.box_format)
        return RuleScore(rule, "acc@0.5", overall, values, sub_scores, failures, notes)


class Detection(RegionBenchmark):
    """Detection; a sample's `reference` is a `Region`, without boxes where the thing is not in the image.

    Rules: `iou_50` and `iou_75`, by the IoU from which a box has found a true one; every true box is found once. Models
    that write boxes give them no confidence, so there is no average precision.
    """

    name: ClassVar[str] = "detection"
    rules: ClassVar[tuple[str, ...]] = ("iou_50", "iou_75")
    prompt_field: ClassVar[str] = "label"
    max_tokens: ClassVar[int] = 200

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """A line a label (`label`, `boxes`, perhaps none), or a line an image with `boxes` of `box` and `label`."""
        return read_regions(annotations, "detection", "label", "boxes", options.split)

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Mean F1 of a question; precision, recall and F1 over all boxes; how often the absent was left unboxed.

        A question's F1 is 2 x right / (written + true), and 1 where there is nothing to find and no box was written.
        """
        check_box_units(answers, options.box_format)
        values: dict[str, float] = {}
        columns: list[list[float]] = []
        failures = 0
        for sample in samples:
            truths, prediction = sample.reference.boxes, answers.get(sample.id)
            found = usable_boxes(prediction, sample.reference, options.box_format)
            right = match_boxes(found, truths, _THRESHOLDS[rule], overlap=iou)
            total = len(found) + len(truths)
            values[sample.id] = 2 * right / total if total else float(prediction is not None)
            columns.append([right, len(found), right, len(truths)])
            failures += prediction is not None and not found and not _denies(prediction)
        overall, groups = mean_by_group(samples, values)
        sub_scores: dict[str, Estimate | float] = dict(groups)
        images = [sample.cluster for sample in samples]
        figures = precision_recall(list(zip(*columns, strict=True)), images)
        sub_scores |= {f"{name} over all boxes": figure for name, figure in figures.items()}
        absent = [row for row, sample in enumerate(samples) if not sample.reference.boxes]
        if absent:
            unboxed = [float(not columns[row][1]) for row in absent]
            sub_scores["absent left unboxed"] = clustered_mean(unboxed, [images[row] for row in absent])
        # What denies is no box that could not be read.
        notes = box_notes({key: one for key, one in answers.items() if not _denies(one)}, options.box_format)
        return RuleScore(rule, "f1 a question", overall, values, sub_scores, failures, notes)


def _denies(prediction: Prediction) -> bool:
    """Whether an answer without boxes says so on purpose, in words or as an empty list."""
    return prediction.boxes is not None or text_of(prediction).strip(" .!").lower() in ("none", "no", "[]", "nothing")
