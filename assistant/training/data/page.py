"""A page of samples to look at: what a mixture teaches, drawn."""

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fourfold.assistant.files import replacing, write_text
from fourfold.assistant.grounding import GroundedPhrase, draw
from fourfold.assistant.images import Attachment
from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.data.sample import Sample
from fourfold.prompts.errors import UserError

_SIDE, _WIDTH, _LINE = 320, 620, 17  # pixels: image, column of text, line of text


def write_page(config: MixtureConfig, out: Path, count: int = 12, epoch: int = 0) -> None:
    """Draw the first samples of an epoch: `.png` for one picture, `.html` for a page whose text can be searched.

    Raises:
        UserError: another ending.
    """
    if out.suffix not in (".png", ".html"):
        raise UserError(f"{out} must end in .png or .html")
    mixture = Mixture(config)
    samples = [mixture.draw(entry, epoch) for entry in mixture.epoch(epoch)[:count]]
    if out.suffix == ".html":
        write_text(out, _page(samples))
    else:
        with replacing(out) as part:
            _sheet(samples).save(part)


def _drawn(sample: Sample) -> Image.Image:
    """The images side by side, enlarged, with the boxes of all turns under the numbers of their turns."""
    marks = [
        GroundedPhrase(str(number + 1), turn.boxes, 0, 0) for number, turn in enumerate(sample.turns) if turn.boxes
    ]
    drawn = Image.new("RGB", (_SIDE, _SIDE), "white")
    side = _SIDE // max(1, len(sample.images))
    for place, image in enumerate(image.open() for image in sample.images):
        factor = side / max(image.size)
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
        drawn.paste(draw(image, marks), (place * side, 0))
    return drawn


def _lines(sample: Sample) -> list[str]:
    kind = "one conversation" if sample.multi_turn else "turns apart"
    lines = [f"{' and '.join(image.key for image in sample.images) or 'no picture'}  ({kind})"]
    for number, turn in enumerate(sample.turns):
        for question, answer in turn.history:  # nothing is learnt from it
            before = f"after: {question} = {answer}"
            lines += textwrap.wrap(before, 96, initial_indent="    ", subsequent_indent="      ")
        lines += textwrap.wrap(f"{number + 1}. {turn.question}", 100, subsequent_indent="    ")
        lines += textwrap.wrap(f"= {turn.answer}", 96, initial_indent="    ", subsequent_indent="      ")
    return lines


def _sheet(samples: Sequence[Sample]) -> Image.Image:
    """All samples below each other in two columns: image on the left, turns on the right."""
    font = ImageFont.load_default(12)
    sides: list[list[Image.Image]] = [[], []]
    for number, sample in enumerate(samples):
        lines = _lines(sample)
        cell = Image.new("RGB", (_SIDE + _WIDTH, max(_SIDE, _LINE * len(lines)) + 12), "white")
        cell.paste(_drawn(sample), (0, 0))
        pen = ImageDraw.Draw(cell)
        for row, line in enumerate(lines):
            pen.text((_SIDE + 10, 4 + row * _LINE), line, fill="black", font=font)
        sides[number % 2].append(cell)
    sheet = Image.new("RGB", (2 * (_SIDE + _WIDTH), max(sum(cell.height for cell in side) for side in sides)), "white")
    for place, side in enumerate(sides):
        top = 0
        for cell in side:
            sheet.paste(cell, (place * (_SIDE + _WIDTH), top))
            top += cell.height
    return sheet


def _page(samples: Sequence[Sample]) -> str:
    """One HTML file, images inside."""
    parts = ['<!doctype html><meta charset="utf-8"><title>samples</title>', "<style>body{font:14px sans-serif}"]
    parts.append("section{display:flex;gap:1em;margin:1em}pre{margin:0;white-space:pre-wrap}</style>")
    for sample in samples:
        image = Attachment.from_image(_drawn(sample)).data_uri
        text = html.escape("\n".join(_lines(sample)))
        parts.append(f'<section><img alt="" src="{image}"><pre>{text}</pre></section>')
    return "\n".join(parts)
