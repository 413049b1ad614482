"""COCO's 80 classes, found and counted by SSD-MobileNet-v2 (Liu et al. 2016, Sandler et al. 2018)."""

import importlib.util
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from fourfold.assistant.extras import missing_extra
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import pixel_hash
from fourfold.assistant.tools.coco import CLASSES, class_of
from fourfold.assistant.tools.results import Count, Detection, Detections
from fourfold.assistant.tools.weights import DETECTOR

if TYPE_CHECKING:
    from cv2.dnn import Net

_SIDE = 300  # pixels a side that the network takes
_LEAST = 0.3  # score from which a box counts; between 0.2 and 0.3 as many counts are exact (docs/eyes.md)
_TILE = 0.6  # of a side; four tiles, one a corner, show small things at nearly twice their size
_SMALL = 0.03  # of the picture; where such things are found, more of them are missed than where things are large
_MANY = 4  # as many things hide others
# Chance that a box of score s is right, 1 / (1 + exp(-(A logit(s) + B))): fitted on 426 photos of COCO, where the mean
# error of the chance is 0.02, and tried on 100 of VOC, where it is 0.03.
_CHANCE = (1.60, 0.18)
_LOCK = threading.Lock()  # OpenCV's networks hold their input
_KEPT = 8  # pictures
_SEEN_LOCK = threading.Lock()


class _Seen(NamedTuple):
    label: str
    box: Box
    score: float


_SEEN: OrderedDict[str, list[_Seen]] = OrderedDict()


class Detector:
    """The detector as the loop takes it; see `detector_if_fetched`."""

    def detect(self, image: Image.Image, noun: str) -> list[tuple[Box, float]] | None:
        """Boxes of a noun with the chance that each is right, best first; None where it knows no such noun."""
        found = detect(image, [noun])
        return None if found.unknown else [(one.box, one.confidence) for one in found.found]

    def everything(self, image: Image.Image) -> list[tuple[str, Box, float]]:
        """Class, box and chance of all that it finds."""
        return [(one.label, one.box, one.confidence) for one in detect(image).found]

    def count(self, image: Image.Image, noun: str) -> Count:
        """As `count`."""
        return count(image, noun)


def detector_if_fetched() -> Detector | None:
    """The detector, or None where the extra `tools` or its weights are not on this machine; nothing is downloaded."""
    ready = importlib.util.find_spec("cv2") is not None and DETECTOR.is_cached
    return Detector() if ready else None


def detect(image: Image.Image, nouns: Sequence[str] = (), *, least: float = _LEAST) -> Detections:
    """Things of COCO's 80 classes in a picture.

    Args:
        image: RGB.
        nouns: what to look for, in any words; none: everything that the detector knows.
        least: the least score of the network, 0.1..1, that counts.

    Raises:
        UserError: the extra `tools` is not installed, or the weights cannot be had.
    """
    classes = {noun: class_of(noun) for noun in nouns}
    wanted = {label: noun for noun, label in classes.items() if label is not None}
    unknown = tuple(noun for noun, label in classes.items() if label is None)
    if nouns and not wanted:
        return Detections(found=(), unknown=unknown)
    found = [
        Detection(noun=wanted.get(label, label), label=label, box=box, confidence=_chance(score))
        for label, box, score in _look(image)
        if score >= least and (not nouns or label in wanted)
    ]
    return Detections(found=tuple(found), unknown=unknown)


def count(image: Image.Image, noun: str) -> Count:
    """How many of a noun are in a picture.

    Where a thing that was found is small, or four or more were, others are usually missed: the count says "at least".

    Raises:
        UserError: as `detect`.
    """
    label = class_of(noun)
    if label is None:
        return Count(noun=noun, label=None, number=None)
    boxes = tuple(one.box for one in detect(image, [noun]).found)
    at_least = len(boxes) >= _MANY or any(box.area < _SMALL for box in boxes)
    return Count(noun=noun, label=label, number=len(boxes), at_least=at_least, boxes=boxes)


def _chance(score: float) -> float:
    slope, shift = _CHANCE
    score = min(score, 0.999)
    return 1 / (1 + math.exp(-(slope * math.log(score / (1 - score)) + shift)))


def _look(image: Image.Image) -> list[_Seen]:
    """What the network sees in the picture and in four tiles of it, each thing once, the best first.

    Remembered for the last few pictures: the next noun is often about the same one.
    """
    key = pixel_hash(image)
    with _SEEN_LOCK:
        if key in _SEEN:
            _SEEN.move_to_end(key)
            return _SEEN[key]
    pixels = np.asarray(image.convert("RGB"))
    seen = _forward(pixels, Box(0, 0, 1, 1))
    for left in (0.0, 1 - _TILE):
        for top in (0.0, 1 - _TILE):
            tile = Box(left, top, left + _TILE, top + _TILE)
            seen += [one for one in _forward(pixels, tile) if not _is_cut(one.box, tile)]
    found = _distinct(sorted(seen, key=lambda one: -one.score))
    with _SEEN_LOCK:
        _SEEN[key] = found
        while len(_SEEN) > _KEPT:
            _SEEN.popitem(last=False)
    return found


def _forward(pixels: np.ndarray, part: Box) -> list[_Seen]:
    """What the network sees in a part of the picture, in boxes of the whole; scores below 0.1 are noise."""
    cv2 = _opencv()
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (int(side) for side in part.to_pixels(width, height))
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    blob = cv2.dnn.blobFromImage(np.ascontiguousarray(pixels[y1:y2, x1:x2]), size=(_SIDE, _SIDE))
    with _LOCK:
        network = _network()
        network.setInput(blob)
        rows = network.forward()[0, 0]  # (100, 7): picture, class, score, x1, y1, x2, y2
    seen = []
    for _, number, score, *corners in rows.tolist():
        label = CLASSES.get(int(number))
        if label is None or score < 0.1:
            continue
        sides = [min(max(corner, 0.0), 1.0) for corner in corners]
        left, right = ((x1 + sides[place] * (x2 - x1)) / width for place in (0, 2))
        top, bottom = ((y1 + sides[place] * (y2 - y1)) / height for place in (1, 3))
        if left < right and top < bottom:
            seen.append(_Seen(label, Box(left, top, right, bottom), min(score, 1.0)))
    return seen


def _is_cut(box: Box, tile: Box, margin: float = 0.012) -> bool:
    """Whether a box ends where its tile does and the picture does not: it is of a part of something."""
    low = (tile.x1 > 0 and box.x1 < tile.x1 + margin) or (tile.y1 > 0 and box.y1 < tile.y1 + margin)
    high = (tile.x2 < 1 and box.x2 > tile.x2 - margin) or (tile.y2 < 1 and box.y2 > tile.y2 - margin)
    return low or high


def _distinct(seen: Iterable[_Seen]) -> list[_Seen]:
    """Without what lies on, or nearly in, a better one of its class."""
    kept: list[_Seen] = []
    for one in seen:
        if not any(one.label == other.label and _same(one.box, other.box) for other in kept):
            kept.append(one)
    return kept


def _same(one: Box, other: Box) -> bool:
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    inner = max(width, 0.0) * max(height, 0.0)
    return one.iou(other) > 0.5 or inner > 0.8 * min(one.area, other.area)


@cache
def _network() -> "Net":
    graph, text = DETECTOR.fetch()
    return _opencv().dnn.readNetFromTensorflow(str(graph), str(text))


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise missing_extra("tools", "detecting and counting") from None
    return cv2
