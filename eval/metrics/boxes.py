"""Reading one box out of an answer and measuring how well it fits, under two declared rules."""

import re
from collections.abc import Sequence
from enum import StrEnum

from assistant.grounding import Box, parse

_FOUR_NUMBERS = re.compile(r"[\[(<]\s*" + r"\s*,\s*".join([r"(-?\d{1,7}(?:\.\d{1,20})?)"] * 4) + r"\s*[\])>]")
_MINIGPT4 = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")

Pixels = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the annotated image."""


class BoxFormat(StrEnum):
    """How a model writes boxes; declared by the user, never guessed from the ground truth.

    TOKENS is `{<x1><y1><x2><y2>}` with integers 0..100 (MiniGPT-v2, Fourfold); the others are four numbers x1, y1, x2,
    y2 in brackets or as JSON: UNIT 0..1, PERCENT 0..100, PIXELS those of the annotated image.
    """

    TOKENS = "tokens"
    UNIT = "unit"
    PERCENT = "percent"
    PIXELS = "pixels"


def scale_box(numbers: Sequence[float], box_format: BoxFormat, width: int, height: int) -> Pixels | None:
    """Four numbers in `box_format` to pixels; None if the corners are swapped or a share is beyond the image."""
    x1, y1, x2, y2 = numbers
    if not (x1 <= x2 and y1 <= y2):
        return None
    if box_format is BoxFormat.PIXELS:
        return x1, y1, x2, y2
    whole = 1.0 if box_format is BoxFormat.UNIT else 100.0
    if x1 < 0 or y1 < 0 or x2 > whole or y2 > whole:
        return None
    return x1 / whole * width, y1 / whole * height, x2 / whole * width, y2 / whole * height


def read_box(answer: str, box_format: BoxFormat, width: int, height: int) -> Pixels | None:
    """The first box of the answer in pixels, or None where there is none that can be used."""
    if box_format is BoxFormat.TOKENS:
        phrases = parse(answer).phrases
        return phrases[0].boxes[0].to_pixels(width, height) if phrases else None
    match = _FOUR_NUMBERS.search(answer)
    return scale_box([float(number) for number in match.groups()], box_format, width, height) if match else None


def read_box_minigpt4(answer: str, width: int, height: int) -> Pixels | None:
    """MiniGPT-v2's own reading: without `<unk>` and spaces, a box at the very start; its numbers unchecked."""
    match = _MINIGPT4.match(answer.replace("<unk>", "").replace(" ", "").strip())
    if not match:
        return None
    x1, y1, x2, y2 = (int(number) / 100 for number in match.groups())
    return x1 * width, y1 * height, x2 * width, y2 * height


def iou(a: Pixels, b: Pixels) -> float:
    """Intersection over union of continuous rectangles, 0..1; 0 where both are empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def iou_inclusive(a: Pixels, b: Pixels) -> float:
    """Intersection over union with the last pixel counted in ("+1"), as MiniGPT-v2's script computes it."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0.0)
    overlap = width * height
    union = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - overlap
    return overlap / union if union > 0 else 0.0


def size_class(share: float) -> str:
    """Classes by the share of the image that a box covers: small below 10 %, large from 30 %.

    COCO's classes in square pixels would not do: nearly every object of RefCOCO is "large" by them.
    """
    return "small" if share < 0.1 else "medium" if share < 0.3 else "large"


def match_boxes(predicted: Sequence[Box], truths: Sequence[Box], threshold: float = 0.5) -> int:
    """How many predictions find a truth of their own at IoU >= `threshold`: best pairs first, each used once."""
    pairs = sorted(
        ((p.iou(t), i, j) for i, p in enumerate(predicted) for j, t in enumerate(truths)), key=lambda pair: -pair[0]
    )
    used_predicted: set[int] = set()
    used_truths: set[int] = set()
    for overlap, i, j in pairs:
        if overlap >= threshold and i not in used_predicted and j not in used_truths:
            used_predicted.add(i)
            used_truths.add(j)
    return len(used_predicted)
