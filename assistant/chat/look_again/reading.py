"""Text in the image, read by OCR and given to the model as a quotation."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class TextLine:
    """A line of text in an image.

    Attributes:
        text: as read.
        box: around it.
        score: how sure the reader is, 0..1.
    """

    text: str
    box: Box
    score: float


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
        raise UserError('reading text needs the extra "ocr": pip install "fourfold[ocr]"') from None
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    # Left alone, its threads take every core from the model.
    return RapidOCR(params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 2})
