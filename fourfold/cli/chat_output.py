"""How an answer appears: word by word, with the phrases that have boxes in colour where there is a terminal."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.assistant.grounding import parse
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.requests import Completion, Delta

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text

_COLOURS = ("yellow", "cyan", "green", "magenta", "blue", "red")


def show_answer(deltas: Iterator[Delta]) -> Completion:
    """Print an answer on stdout as it comes and return it whole.

    A pipe gets the text as the model writes it; on a terminal boxes are shortened and coloured.
    """
    if sys.stdout.isatty():
        return _show_live(deltas)
    completion = None
    for delta in deltas:
        print(delta.text, end="", flush=True)
        completion = delta.completion
    print()
    assert completion is not None  # the last delta carries it
    return completion


def _show_live(deltas: Iterator[Delta]) -> Completion:
    from rich.console import Console
    from rich.live import Live

    text, completion = "", None
    with Live(console=Console(highlight=False), refresh_per_second=20, vertical_overflow="visible") as live:
        for delta in deltas:
            text += delta.text
            completion = delta.completion
            live.update(coloured(text))
    assert completion is not None
    return completion


def coloured(text: str) -> "Text":
    """The answer with each grounded phrase in a colour, followed by its boxes in hundredths."""
    from rich.text import Text

    grounded = parse(text)
    out = Text()
    place = 0
    for number, phrase in enumerate(grounded.phrases):
        out.append(grounded.text[place : phrase.start])
        boxes = " ".join(
            "[{:.0f},{:.0f} {:.0f},{:.0f}]".format(*(100 * side for side in box.as_tuple())) for box in phrase.boxes
        )
        colour = _COLOURS[number % len(_COLOURS)]
        if phrase.phrase:
            out.append(f"{phrase.phrase} ", style=f"bold {colour}")
        out.append(boxes, style=f"dim {colour}")
        place = phrase.end
    out.append(grounded.text[place:])
    return out


def write_image(image: "Image.Image", path: Path) -> None:
    """Save an image in the format that its suffix names; the file appears whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        image.save(part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
