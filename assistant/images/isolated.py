"""Decoding in a process of its own: pictures of strangers, and those whose headers say little about what they cost.

An AVIF of a kilobyte may claim 64 x 48 pixels and hold 48 million, a HEIC may have its tiles decoded thousands of
times, and a page of a PDF may draw for ever; what decodes them cannot be interrupted. Any decoder may have a hole that
ends the whole process, which a server cannot afford. `isolated_process` says what it costs.
"""

import logging
from collections.abc import Sequence
from typing import Any

from PIL import Image

from fourfold.assistant.images.isolated_process import Died, process
from fourfold.assistant.images.limits import LIMITS, ImageLimits
from fourfold.prompts.errors import UserError

MEMORY = 1536 * 2**20
"""Bytes of address space of a process that decodes AVIF, HEIC or a PDF, where the system can cap that (on Linux)."""
SECONDS = 20.0
"""Of computing; of waiting, three times as many."""

log = logging.getLogger("fourfold.images")


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
    [image] = _ask({"do": "picture", "kind": kind, "least": least}, data, name, limits)[1]
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
    told, images = _ask({"do": "pages", "pages": list(pages), "longest": longest}, data, name, limits)
    return told["count"], images


def load_isolated(data: bytes, name: str, limits: ImageLimits, side: int | None) -> Image.Image:
    """As `load_image_bytes`, of one of `FORMATS`."""
    [image] = _ask({"do": "load", "side": side}, data, name, limits)[1]
    return image


def hashes_isolated(data: bytes, name: str, limits: ImageLimits) -> set[str]:
    """As `pixel_hashes`, of one of `FORMATS`."""
    return set(_ask({"do": "hashes"}, data, name, limits)[0]["hashes"])


def warm() -> None:
    """Start a process for the pictures to come; quietly, as those say what is wrong."""
    try:
        with process() as waiting:
            waiting.ask({"do": "warm", "seconds": SECONDS}, b"", SECONDS)
    except (Died, OSError):
        pass


def _ask(wish: dict[str, Any], data: bytes, name: str, limits: ImageLimits) -> tuple[dict[str, Any], list[Image.Image]]:
    caps = {"name": name, "bytes": limits.bytes, "pixels": limits.pixels, "longest_side": limits.side}
    try:
        with process() as decoding:
            told, reader = decoding.ask({"memory": MEMORY, "seconds": SECONDS, **caps, **wish}, data, 3 * SECONDS)
            images = []
            for mode, size, pixels in told.get("images", ()):
                if mode not in ("RGB", "RGBA") or not 0 < size[0] * size[1] <= max(limits.pixels, LIMITS.pixels):
                    raise Died("")  # whatever it is now, it is not our script any more
                images.append(Image.frombytes(mode, size, reader.exactly(size[0] * size[1] * len(mode))))
                images[-1].info = {"pixels": pixels}
    except (Died, EOFError) as error:
        told = {"died": str(error)}
    except OSError as error:
        raise UserError(f"{name} cannot be decoded: no process can be started for it ({error.strerror})") from None
    if (signal := told.get("died")) is not None:
        log.warning("a decoder died (%s); its picture was refused", signal or "it took too long")
        if signal in ("", "SIGPROF", "SIGXCPU", "SIGKILL"):  # its caps, or the system's
            raise UserError(f"{name} takes too much memory or time to decode; save it as JPEG or PNG")
        raise UserError(f"{name} is damaged: its decoder crashed; save it as JPEG or PNG anew")
    if "refused" in told:
        raise UserError(told["refused"])
    if "error" in told:
        raise UserError(f"{name} {told['error']}")
    if "size" in told:
        raise UserError(limits.too_many_pixels(name, tuple(told["size"])))
    return told, images
