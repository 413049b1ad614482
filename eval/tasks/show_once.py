"""A thing shown once: read-outs taught by a few boxes of some photos, tried on photos of another source."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.assistant.grounding import Box
from fourfold.assistant.training.data.photos import Photo, Thing, read_photos
from fourfold.assistant.training.data.sample import ImageRef, photos_directory
from fourfold.eval.model import EngineModel
from fourfold.eval.statistics import clustered_mean

if TYPE_CHECKING:
    from fourfold.assistant.readouts import ReadoutLibrary

BOXES = (1, 3, 10)
"""How many are shown."""
DRAWS = 3
_NAME = "the thing"  # no noun: what the library knows of the class must not help
_LEAST_SHOWN = 0.005  # part of the picture; nobody shows a thing that cannot be seen


def show_once(model: EngineModel, library: "ReadoutLibrary", *, seed: int = 0) -> list[dict[str, Any]]:
    """Teach classes by boxes of COCO photos, and look for them in VOC photos; a row for each number of boxes."""
    taught, tried = _photos("coco"), _photos("voc2012_100")
    shared = sorted(set(_by_label(taught)) & set(_by_label(tried)))
    engine = model.engine

    def features_of(photo: Photo) -> np.ndarray:
        from fourfold.assistant.readouts import normalised

        if photo.id not in kept:
            image = ImageRef(photo.id, path=photo.path).open()
            kept[photo.id] = normalised(engine.vision_features(image)).astype(np.float16)
        return kept[photo.id].astype(np.float32)

    kept: dict[str, np.ndarray] = {}
    return [_taught_by(count, shared, taught, tried, features_of, library, seed) for count in BOXES]


def _taught_by(
    count: int,
    labels: Sequence[str],
    taught: Sequence[Photo],
    tried: Sequence[Photo],
    features_of: Any,
    library: "ReadoutLibrary",
    seed: int,
) -> dict[str, Any]:
    from fourfold.assistant.readouts import concept_readout

    drawn = random.Random(f"show once {count} {seed}")
    examples, shows = _by_label(taught), _by_label(tried)
    hits: list[float] = []
    fits: list[float] = []
    images: list[str] = []
    precisions: list[float] = []
    told: list[float] = []
    told_images: list[str] = []
    for label in labels:
        possible = [(photo, thing) for photo, thing in examples[label] if _shown(thing)]
        if len(possible) < count:
            continue
        for _ in range(DRAWS):
            chosen = drawn.sample(possible, count)
            shown = [
                (features_of(photo), [max(thing.boxes, key=lambda box: box.area)], True) for photo, thing in chosen
            ]
            knows = library.with_concepts([concept_readout(_NAME, shown, library)])
            there = {photo.id: thing for photo, thing in shows[label]}
            chances = []
            for photo in tried:
                finding = knows.find(features_of(photo), _NAME)
                assert finding is not None
                chances.append((finding.presence, photo.id in there))
                told.append(float((finding.presence >= 0.5) == (photo.id in there)))
                told_images.append(photo.id)
                if photo.id in there:
                    x, y = finding.point
                    boxes = there[photo.id].boxes
                    hits.append(float(any(b.x1 <= x <= b.x2 and b.y1 <= y <= b.y2 for b in boxes)))
                    fits.append(float(any(finding.boxes[0].iou(box) >= 0.5 for box in boxes)))
                    images.append(photo.id)
            precisions.append(average_precision(chances))
    return {
        "boxes": count,
        "classes": len(labels),
        "pointing": clustered_mean(hits, images).to_json(),
        "acc@0.5": clustered_mean(fits, images).to_json(),
        "presence": clustered_mean(told, told_images).to_json(),
        "average precision": float(np.mean(precisions)),
    }


def average_precision(ranked: Sequence[tuple[float, bool]]) -> float:
    """Mean precision at the place of each right one, the likeliest first."""
    order = sorted(ranked, key=lambda pair: -pair[0])
    right, total = 0, 0.0
    for place, (_, is_right) in enumerate(order, 1):
        if is_right:
            right += 1
            total += right / place
    return total / max(right, 1)


def _photos(source: str) -> list[Photo]:
    return [photo for photo in read_photos(photos_directory(), [source]) if photo.things]


def _by_label(photos: Sequence[Photo]) -> dict[str, list[tuple[Photo, Thing]]]:
    found: dict[str, list[tuple[Photo, Thing]]] = defaultdict(list)
    for photo in photos:
        for thing in photo.things:
            found[thing.nouns[0]].append((photo, thing))
    return found


def _shown(thing: Thing) -> bool:
    return _largest(thing).area >= _LEAST_SHOWN


def _largest(thing: Thing) -> Box:
    return max(thing.boxes, key=lambda box: box.area)
