"""Decoding in a process of its own: pictures whose headers say little about what they cost, and pages of documents.

An AVIF of a kilobyte may claim 64 x 48 pixels and hold 48 million, a HEIC may have its tiles decoded thousands of
times, and a page of a PDF may draw for ever. What decodes them cannot be interrupted, so it gets a process with a cap
on its memory and its time. It costs about a fifth of a second.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fourfold.assistant.images.limits import ImageLimits
from fourfold.prompts.errors import UserError

MEMORY = 1536 * 2**20
"""Bytes of address space of such a process, where the system can cap that (not on Windows and macOS)."""
SECONDS = 20.0
"""Of computing; of waiting, three times as many."""

_SCRIPT = Path(__file__).with_name("isolated_decoder.py")
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"} | {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}


def decode_isolated(data: bytes, kind: str, name: str, limits: ImageLimits, least: int | None = None) -> Image.Image:
    """The first picture of a file of `ISOLATED`, upright.

    Args:
        data: the file.
        kind: its format.
        name: what error messages call it.
        limits: of size.
        least: Pixels a side below which it need not be kept, for a model whose input is smaller.

    Returns:
        RGB or RGBA; `info["pixels"]` says how many it has in the file.

    Raises:
        UserError: it is too large or damaged, or takes too much to decode.
    """
    [image] = _run(data, name, limits, {"kind": kind, "least": least})[1]
    return image


def render_pages(
    data: bytes, name: str, limits: ImageLimits, pages: Sequence[int], longest: int
) -> tuple[int, list[Image.Image]]:
    """Pages of a PDF as pictures, RGB.

    Args:
        data: the file.
        name: what error messages call it.
        limits: of size.
        pages: numbers, from 1; those beyond the last page are left out.
        longest: Pixels of a picture's longer side.

    Returns:
        How many pages the document has, and the pictures.

    Raises:
        UserError: it is damaged or locked, or takes too much to draw.
    """
    return _run(data, name, limits, {"kind": "PDF", "pages": list(pages), "longest": longest})


def _run(data: bytes, name: str, limits: ImageLimits, wish: dict[str, object]) -> tuple[int, list[Image.Image]]:
    wish |= {
        "pixels": limits.pixels,
        "side": limits.side,
        "memory": MEMORY,
        "seconds": SECONDS,
        "path": [entry for entry in sys.path if entry],
    }
    command = [sys.executable, "-I", "-S", str(_SCRIPT), json.dumps(wish)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=3 * SECONDS, env=_ENVIRONMENT)
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} takes too long to decode; save it as JPEG or PNG") from None
    except OSError as error:
        raise UserError(f"{name} cannot be decoded: no process can be started for it ({error.strerror})") from None
    head, _, rest = done.stdout.partition(b"\n")
    try:
        told = json.loads(head)
    except ValueError:  # killed by its caps, or by what it was given
        raise UserError(f"{name} takes too much memory or time to decode; save it as JPEG or PNG") from None
    if "error" in told:
        raise UserError(f"{name} {told['error']}")
    if "size" in told:
        raise UserError(limits.too_many_pixels(name, tuple(told["size"])))
    images, place = [], 0
    for mode, size, pixels in told["images"]:
        length = size[0] * size[1] * len(mode)
        images.append(Image.frombytes(mode, size, rest[place : place + length]))
        images[-1].info = {"pixels": pixels}
        place += length
    return told.get("count", 1), images
