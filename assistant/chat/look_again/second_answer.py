"""A second answer to the same question, with more to go on: a region at full resolution, or the text in the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from fourfold.assistant.chat.look_again.claims import subject
from fourfold.assistant.chat.look_again.client import BudgetedClient, around, inside
from fourfold.assistant.extras import missing_extra
from fourfold.assistant.grounding import Box, Grounded, format_box, format_phrase, parse
from fourfold.prompts.tasks import Task, instruction

_LARGEST = 0.6
"""A region that covers more of the image than this shows nothing that the whole image did not show."""


@dataclass(frozen=True)
class Closer:
    """A second answer to the same question."""

    region: Box  # the part of the image that was cut out
    answer: str  # what the model says about it; its boxes are those of the whole image
    changed: bool  # whether the plain text or a box differs from the first answer's


def look_closer(asker: BudgetedClient, image: Image.Image, question: str, answer: str) -> Closer | None:
    """Ask `question` again about the region that its subject takes up.

    The region is around the boxes of the first answer, else around the box that the model gives the question's subject.
    None where there is none to find, where it is nearly the whole image, or where the model failed.

    Raises:
        Stopped: as `BudgetedClient.question`.
    """
    boxes = parse(answer).boxes
    if not boxes:
        thing = subject(question)
        if thing is None:
            return None
        found = asker.question(image, instruction(Task.REFER, f"the {thing}"))
        boxes = parse(found or "").boxes
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
    changed = first.plain.strip(" .").lower() != last.plain.strip(" .").lower() or first.boxes != last.boxes
    asker.tell("closer", f"seen close by: {moved}", box=region)
    return Closer(region, moved, changed)


def _hull(boxes: Sequence[Box]) -> Box:
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


@dataclass(frozen=True)
class TextLine:
    """A line of text in an image."""

    text: str
    box: Box
    score: float  # how sure the reader is, 0..1


def read_text(image: Image.Image, *, least: float = 0.5) -> list[TextLine]:
    """The lines of text in an image, from top to bottom, that the reader is at least `least` sure of.

    Raises:
        UserError: the extra `ocr` is not installed.
    """
    pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]  # the reader takes BGR
    result = _reader()(pixels)
    if result.txts is None:
        return []
    lines = []
    for text, corners, score in zip(result.txts, result.boxes, result.scores, strict=True):
        (x1, y1), (x2, y2) = np.min(corners, axis=0), np.max(corners, axis=0)
        if score >= least and text.strip():
            box = Box.from_pixels((float(x1), float(y1), float(x2), float(y2)), image.width, image.height)
            lines.append(TextLine(text.strip(), box, float(score)))
    return sorted(lines, key=lambda line: (line.box.y1, line.box.x1))


def with_text(question: str, lines: list[TextLine], *, longest: int = 300) -> str:
    """The question with the text of the image before it, in quotation marks, after the question's tag if it has one.

    What is written in an image comes from whoever made it: it is marked as a quotation and cannot end it.

    Args:
        question: as asked.
        lines: what was read; none leave the question alone.
        longest: characters of text at most.
    """
    if not lines:
        return question
    quoted = " / ".join(line.text.replace('"', "'").replace("[", "(").replace("]", ")") for line in lines)[:longest]
    note = f'The image contains the text "{quoted}".'
    tag, bracket, rest = question.partition("]")
    if bracket and tag.lstrip().startswith("[") and " " not in tag.strip():
        return f"{tag}] {note} {rest.lstrip()}"
    return f"{note} {question}"


@cache
def _reader() -> Any:
    try:
        import logging

        from rapidocr import RapidOCR
    except ImportError:
        raise missing_extra("ocr", "reading text") from None
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    # Left alone, its threads take every core from the model.
    return RapidOCR(params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 2})
