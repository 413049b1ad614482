"""Reading boxes out of an answer and measuring how well they fit, under two declared rules."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from fourfold.assistant.grounding import BoxFormat, Corners, Found, find_boxes, parse, scale
from fourfold.prompts.errors import UserError

_MINIGPT4 = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")

_SHARES = (BoxFormat.UNIT, BoxFormat.PATCHES)
"""Whose numbers lie within 0..1."""

AnyBox = TypeVar("AnyBox")
Pixels = Corners
"""x1, y1, x2, y2 in pixels of the annotated image."""


def scale_box(numbers: Sequence[float], declared: BoxFormat | None, width: int, height: int) -> Pixels | None:
    """Four numbers of a file to pixels; None if the corners are swapped or a share is beyond the image.

    They are pixels unless something else is declared: TOKENS says how text is read, and None nothing.
    """
    if declared in (None, BoxFormat.TOKENS):
        declared = BoxFormat.PIXELS
    one, two, three, four = numbers
    return scale((two, one, four, three) if declared.y_first else (one, two, three, four), declared, width, height)


def read_boxes(answer: str, box_format: BoxFormat, width: int, height: int) -> list[Pixels | None]:
    """All boxes of the answer in pixels, in its order; None for one that cannot be used, a point as an empty box."""
    if box_format is BoxFormat.TOKENS:
        return [box.to_pixels(width, height) for box in parse(answer).boxes]
    found = find_boxes(answer, box_format)
    return [one.corners and scale(one.corners, box_format, width, height) for one in found]


def check_units(boxes: Iterable[Sequence[float]], declared: BoxFormat | None) -> None:
    """Notice numbers of a file that cannot be meant as declared (pixels where nothing is).

    Raises:
        UserError: all lie within 0..1 although they are pixels, or beyond although they are shares.
    """
    boxes = list(boxes)
    if declared not in _SHARES and boxes:
        if all(0 <= number <= 1 for box in boxes for number in box):
            meant = "pixels" if declared in (None, BoxFormat.TOKENS) else declared
            raise UserError(f"every predicted box lies within 0..1, but is read as {meant}; say --box-format unit")
    elif declared is BoxFormat.UNIT and boxes and all(max(box) > 1 for box in boxes):
        raise UserError(
            "every predicted box exceeds 1, but --box-format unit was declared; say --box-format pixels or percent"
        )


def reading_notes(answers: Iterable[str], declared: BoxFormat | None) -> tuple[str, ...]:
    """What a reader of the score must know about how answers in words were read, a sentence each.

    Which convention was meant is left to the reader: another one is never tried for its score.
    """
    answers = [answer for answer in answers if answer]
    box_format = declared or BoxFormat.TOKENS
    notes = []
    if box_format is BoxFormat.TOKENS:
        other = [answer for answer in answers if not parse(answer).boxes and find_boxes(answer, BoxFormat.PIXELS)]
        if other:
            notes.append(
                f"{len(other)} answers hold numbers that are no {{<x1><y1><x2><y2>}}, such as {_shown(other[0])}; "
                f"--box-format says how they are meant ({', '.join(list(BoxFormat)[1:])})"
            )
        return tuple(notes)
    found = [find_boxes(answer, box_format) for answer in answers]
    corners = [one.corners for places in found for one in places if one.corners is not None]
    if box_format not in _SHARES and corners and all(max(one) <= 1 for one in corners):
        notes.append(f"every box lies within 0..1, but they were read as {box_format}; is it --box-format unit?")
    if box_format is BoxFormat.UNIT and corners and all(max(one) > 1 for one in corners):
        notes.append("every box exceeds 1, but they were read as unit; declare another --box-format")
    unread = [answer for answer, places in zip(answers, found, strict=True) if not _usable(places, box_format)]
    if unread:
        notes.append(f"{len(unread)} answers hold no box that reads as {box_format}, such as {_shown(unread[0])}")
    if pointed := sum(any(one.point for one in places) for places in found):
        notes.append(f"{pointed} answers point at a spot instead of giving a box; a spot has no area, and is wrong")
    return tuple(notes)


def _usable(places: Sequence[Found], box_format: BoxFormat) -> bool:
    """Whether some place can be used in an image of any size."""
    known = [one.corners for one in places if one.corners is not None]
    return any(box_format.needs_size or scale(corners, box_format, 1, 1) is not None for corners in known)


def _shown(answer: str) -> str:
    words = " ".join(answer.split())
    return repr(words if len(words) <= 80 else words[:79] + "…")


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
