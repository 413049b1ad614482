"""Pictures on their way in, made safe and free of where they were taken, and on their way to the screen."""

import contextlib
import io
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from fourfold.assistant.chat.look_again import crop
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.ui.state.metadata import ORIENTATION, bare_jpeg, bare_png, bare_webp

TYPES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
"""Endings of the files that can be chosen."""


@dataclass(frozen=True)
class Shown:
    """A picture for the screen."""

    uri: str  # of a smaller copy
    width: int  # of the upright original, in pixels
    height: int


def take(data: bytes, name: str = "the picture") -> Attachment:
    """What to keep of a picture that somebody chose.

    JPEG, PNG and WebP stay as they are, pixel for pixel, without their metadata (place, camera, texts, thumbnails);
    which way is up is kept. Everything else becomes a PNG, because few endpoints read it.

    Raises:
        UserError: it is too large, damaged, or no picture.
    """
    upright = Attachment(data, name).decode()  # within its limits, whatever it is
    with Image.open(io.BytesIO(data)) as image:
        kind, animated = image.format, getattr(image, "is_animated", False)
        orientation = image.getexif().get(ORIENTATION, 1)
    if kind in ("JPEG", "MPO"):
        return Attachment(bare_jpeg(data, orientation), name)
    if kind in ("PNG", "WEBP") and not animated and orientation == 1:
        with contextlib.suppress(ValueError):
            return Attachment(bare_png(data) if kind == "PNG" else bare_webp(data), name)
    return Attachment.from_image(upright, name)


@lru_cache(maxsize=4)
def decoded(picture: Attachment) -> Image.Image:
    """The upright picture, RGB; decoded once for as long as it is in use."""
    return picture.decode()


@lru_cache(maxsize=64)
def shown(picture: Attachment, longest: int = 1024) -> Shown:
    """A picture for the screen, scaled down where it has more than `longest` pixels a side."""
    image = decoded(picture)
    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return Shown(Attachment(out.getvalue()).data_uri, image.width, image.height)


def cut(picture: Attachment, box: Box) -> Image.Image:
    """The part of a picture that a box holds, at least one pixel."""
    return crop(decoded(picture), box)
