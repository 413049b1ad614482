"""Reading boxes out of an answer and measuring how well they fit, under two declared rules."""

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

from fourfold.assistant.grounding import parse
from fourfold.prompts.errors import UserError

_FOUR_NUMBERS = re.compile(r"[\[(<]\s*" + r"\s*,\s*".join([r"(-?\d{1,7}(?:\.\d{1,20})?)"] * 4) + r"\s*[\])>]")
_MINIGPT4 = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")

AnyBox = TypeVar("AnyBox")
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


def scale_box(numbers: Sequence[float], declared: BoxFormat | None, width: int, height: int) -> Pixels | None:
    """Four numbers to pixels; None if the corners are swapped or a share is beyond the image.

    They are pixels unless declared to be shares: TOKENS says how text is read, and None nothing.
    """
    x1, y1, x2, y2 = numbers
    if not (x1 <= x2 and y1 <= y2):
        return None
    if declared not in (BoxFormat.UNIT, BoxFormat.PERCENT):
        return x1, y1, x2, y2
    whole = 1.0 if declared is BoxFormat.UNIT else 100.0
    if x1 < 0 or y1 < 0 or x2 > whole or y2 > whole:
        return None
    return x1 / whole * width, y1 / whole * height, x2 / whole * width, y2 / whole * height


def read_boxes(answer: str, box_format: BoxFormat, width: int, height: int) -> list[Pixels | None]:
    """All boxes of the answer in pixels, in its order; None for one that cannot be used."""
    if box_format is BoxFormat.TOKENS:
        return [box.to_pixels(width, height) for box in parse(answer).boxes]
    found = (list(map(float, match.groups())) for match in _FOUR_NUMBERS.finditer(answer))
    return [scale_box(numbers, box_format, width, height) for numbers in found]


def check_units(boxes: Iterable[Sequence[float]], declared: BoxFormat | None) -> None:
    """Notice numbers that cannot be meant as declared (pixels where nothing is).

    Raises:
        UserError: all lie within 0..1 although they are pixels, or beyond although they are shares.
    """
    boxes = list(boxes)
    if declared in (None, BoxFormat.TOKENS, BoxFormat.PIXELS) and boxes:
        if all(0 <= number <= 1 for box in boxes for number in box):
            raise UserError("every predicted box lies within 0..1, but they are read as pixels; say --box-format unit")
    elif declared is BoxFormat.UNIT and boxes and all(max(box) > 1 for box in boxes):
        raise UserError(
            "every predicted box exceeds 1, but --box-format unit was declared; say --box-format pixels or percent"
        )


def read_box_minigpt4(answer: str, width: int, height: int) -> Pixels | None:
    """MiniGPT-v2's own reading: without `<unk>` and spaces, a box at the very start; its numbers unchecked."""
    match = _MINIGPT4.match(answer.replace("<unk>", "").replace(" ", "").strip())
    if not match:
        return None
    x1, y1, x2, y2 = (int(number) / 100 for number in match.groups())
    return x1 * width, y1 * height, x2 * width, y2 * height


def iou(a: Pixels, b: Pixels, last: int = 0) -> float:
    """Intersection over union of continuous rectangles, 0..1; 0 where both are empty.

    With `last` 1 the last pixel is counted in ("+1"), as MiniGPT-v2's script computes it.
    """
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + last, 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + last, 0.0)
    overlap = width * height
    union = (a[2] - a[0] + last) * (a[3] - a[1] + last) + (b[2] - b[0] + last) * (b[3] - b[1] + last) - overlap
    return overlap / union if union > 0 else 0.0


def size_class(share: float) -> str:
    """Classes by the share of the image that a box covers: small below 10 %, large from 30 %.

    COCO's classes in square pixels would not do: nearly every object of RefCOCO is "large" by them.
    """
    return "small" if share < 0.1 else "medium" if share < 0.3 else "large"


def match_boxes(
    predicted: Sequence[AnyBox],
    truths: Sequence[AnyBox],
    threshold: float = 0.5,
    *,
    overlap: Callable[[AnyBox, AnyBox], float],
) -> int:
    """How many predictions find a truth of their own at an overlap >= `threshold`: best pairs first, each used once.

    Args:
        predicted: boxes as written.
        truths: boxes to be found.
        threshold: least overlap.
        overlap: of two boxes, 0..1: `iou` for pixels, `Box.iou` for boxes.
    """
    pairs = sorted(
        ((overlap(p, t), i, j) for i, p in enumerate(predicted) for j, t in enumerate(truths)),
        key=lambda pair: -pair[0],
    )
    used_predicted: set[int] = set()
    used_truths: set[int] = set()
    for value, i, j in pairs:
        if value >= threshold and i not in used_predicted and j not in used_truths:
            used_predicted.add(i)
            used_truths.add(j)
    return len(used_predicted)
