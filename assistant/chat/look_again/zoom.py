"""Asking again about the part of the image that matters, cut from the full-resolution original."""

from dataclasses import dataclass

from PIL import Image

from fourfold.assistant.chat.look_again.asking import BudgetedClient, around, inside
from fourfold.assistant.chat.look_again.claims import subject
from fourfold.assistant.grounding import Box, Grounded, format_box, format_phrase, parse
from fourfold.prompts.tasks import Task, instruction

_LARGEST = 0.6
"""A region that covers more of the image than this shows nothing that the whole image did not show."""


@dataclass(frozen=True)
class Closer:
    """A second answer to the same question.

    Attributes:
        region: the part of the image that was cut out.
        answer: what the model says about it; its boxes are those of the whole image.
        changed: whether the plain text or a box differs from the first answer's.
    """

    region: Box
    answer: str
    changed: bool


def look_closer(asker: BudgetedClient, image: Image.Image, question: str, answer: str) -> Closer | None:
    """Ask `question` again about the region that its subject takes up.

    The region is around the boxes of the first answer, else around the box that the model gives the question's subject.
    None where there is none to find, where it is nearly the whole image, or where the model failed.

    Raises:
        Stopped: as `BudgetedClient.question`.
    """
    boxes = [box for phrase in parse(answer).phrases for box in phrase.boxes]
    if not boxes:
        thing = subject(question)
        if thing is None:
            return None
        found = asker.question(image, instruction(Task.REFER, f"the {thing}"))
        boxes = [box for phrase in parse(found or "").phrases for box in phrase.boxes]
    if not boxes:
        return None
    region = around(_hull(boxes))
    if region.area > _LARGEST:
        return None
    second = asker.question(image, question, region=region)
    if second is None:
        return None
    moved = _move(parse(second), region)
    first, last = parse(answer), parse(moved)
    changed = first.plain.strip(" .").lower() != last.plain.strip(" .").lower() or _boxes(first) != _boxes(last)
    asker.tell("closer", f"seen close by: {moved}", box=region)
    return Closer(region, moved, changed)


def _boxes(grounded: Grounded) -> list[Box]:
    return [box for phrase in grounded.phrases for box in phrase.boxes]


def _hull(boxes: list[Box]) -> Box:
    return Box(min(b.x1 for b in boxes), min(b.y1 for b in boxes), max(b.x2 for b in boxes), max(b.y2 for b in boxes))


def _move(grounded: Grounded, region: Box) -> str:
    """The text with the boxes of a crop written as boxes of the whole image."""
    pieces = []
    for segment in grounded.segments:
        if isinstance(segment, str):
            pieces.append(segment)
        else:
            boxes = [inside(region, _centred(box)) for box in segment.boxes]
            bare = "<delim>".join(map(format_box, boxes))
            pieces.append(format_phrase(segment.phrase, boxes) if segment.phrase is not None else bare)
    return "".join(pieces)


def _centred(box: Box) -> Box:
    """A box read from text, moved by half a step of its grid: written again it will be rounded down a second time."""
    x1, y1, x2, y2 = (min(side + 0.005, 1.0) for side in box.as_tuple())
    return Box(x1, y1, x2, y2)
