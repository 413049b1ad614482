"""Phrases with the boxes that they mean, read from JSON Lines: what phrase grounding and detection are asked about."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.eval.predictions import Prediction, normal_id, read_json
from fourfold.eval.scorers.boxes import BoxFormat, Pixels, read_boxes, scale_box, size_class
from fourfold.eval.tasks.benchmark import Item, unique_ids
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class Region:
    """What a phrase means: its boxes in pixels (none where it is not in the image), and the image's size."""

    boxes: tuple[Pixels, ...]
    width: int
    height: int


def read_regions(path: Path, what: str, word: str, listed: str) -> list[Item]:
    """Items of a file with an image a line; an item's `reference` is a `Region`, its question the phrase.

    A line is either one phrase (`image`, `width`, `height`, the phrase under `word`, `boxes` as x1, y1, x2, y2 in
    pixels) or an image with several of them under `listed`: records with the phrase under `word` and either `boxes` or
    one `box`. What is said twice about an image is asked once, with the boxes of both. Records that say that they are
    of the split "train" are left out.

    Raises:
        UserError: for any other file, NaN, a box without area, or an id that stands twice.
    """
    content = read_json(path, f"{what} annotations")
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
    return unique_ids((item for number, record in chosen for item in _items(record, number, path, word, listed)), path)


def _items(record: Mapping[str, Any], number: int, path: Path, word: str, listed: str) -> Iterator[Item]:
    where, image = f"{path.name}, line {number}", str(record["image"])
    entries = [record] if word in record else record[listed]
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) and one.get(word) for one in entries):
        raise UserError(f"{where}: {listed} must be a list of records with {word}")
    size = (record["width"], record["height"])
    if not all(isinstance(side, int) and side > 0 for side in size):
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
        yield Item(
            normal_id(identifier, where) if identifier is not None else f"{image}: {phrase}",
            image,
            phrase,
            region,
            groups,
        )


def _box(numbers: Any, where: str) -> Pixels:
    if (
        not isinstance(numbers, list)
        or len(numbers) != 4
        or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)
    ):
        raise UserError(f"{where}: a box is four finite numbers x1, y1, x2, y2 in pixels, got {numbers}")
    x1, y1, x2, y2 = map(float, numbers)
    if x1 >= x2 or y1 >= y2:
        raise UserError(f"{where}: the box {numbers} has no area; it should be x1, y1, x2, y2")
    return x1, y1, x2, y2


def hull(boxes: tuple[Pixels, ...]) -> Pixels:
    """The smallest box around all."""
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def predicted_boxes(prediction: Prediction | None, region: Region, declared: BoxFormat | None) -> list[Pixels]:
    """All boxes of a prediction that can be used, in pixels; numbers are pixels unless declared otherwise."""
    if prediction is None:
        return []
    if prediction.boxes is None:
        return read_boxes(prediction.answer or "", declared or BoxFormat.TOKENS, region.width, region.height)
    unit = BoxFormat.PIXELS if declared in (None, BoxFormat.TOKENS) else declared
    assert unit is not None
    scaled = (scale_box(numbers, unit, region.width, region.height) for numbers in prediction.boxes)
    return [box for box in scaled if box is not None]
