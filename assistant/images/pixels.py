"""From whatever pixels a file has to upright 8-bit RGB."""

import hashlib
from typing import cast

from PIL import ExifTags, Image, ImageOps

from fourfold.prompts.errors import UserError

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that scanners, microscopes and cameras have; files keep 10 to 14 of them in 16, and any in 32."""
_OF_TWELVE_BITS = 15
"""The largest value that is left of 12 bits in a 16-bit channel when its upper byte is taken."""


def rgb_of(image: Image.Image, name: str) -> Image.Image:
    """A loaded file's picture, upright.

    Transparency is composited on white. Grey of more than 8 bits is scaled by its depth: what the file declares, else
    the smallest usual one that holds its largest value.

    Raises:
        UserError: its values have no known range.
    """
    tags = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(_BITS_PER_SAMPLE), tags.get(_PHOTOMETRIC)
    upright = turned(image)
    if image.mode.startswith("I"):
        declared = bits[0] if bits and bits[0] in _DEPTHS[:-1] else None
        return _from_deep_grey(upright, name, declared, white_is_zero=photometric == _WHITE_IS_ZERO)
    return _to_rgb(upright, name)


def is_deep(image: Image.Image) -> bool:
    """Whether Pillow will take the upper byte of 16-bit colours; known only before the pixels are loaded."""
    return not image.mode.startswith("I") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def check_depth(image: Image.Image, name: str) -> None:
    """For colours that `is_deep` says were cut: refuse those that had 12 bits or fewer in 16.

    Raises:
        UserError: nearly nothing of them is left.
    """
    colours = [band for band in image.getbands() if band != "A"]
    largest = max(cast("int", image.getchannel(band).getextrema()[1]) for band in colours)
    if 0 < largest <= _OF_TWELVE_BITS:
        raise UserError(f"{name} has 12 bits or fewer in channels of 16, nearly black; save it with 8 bits a channel")


def turned(image: Image.Image) -> Image.Image:
    """A copy as EXIF says it is to be seen."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture with broken EXIF is still a picture
        return image.copy()


def is_turned(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def pixel_hash(image: Image.Image) -> str:
    """`pixels:...`, the same for equal pictures whatever file they come from."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.convert("RGBA").tobytes())
    return f"pixels:{digest.hexdigest()}"


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise UserError(f"{name} has floating-point pixels, whose range is unknown; save it with 8 bits a channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_deep_grey(image: Image.Image, name: str, bits: int | None, *, white_is_zero: bool) -> Image.Image:
    """Pillow's own conversion clips at 255, which turns a 16-bit scan white."""
    import numpy as np  # not at the start of every command

    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UserError(f"{name} has 32-bit pixels, whose range is unknown; save it with 8 bits a channel")
    depth = bits or next(depth for depth in _DEPTHS if high < 2**depth)
    most = 2**depth - 1
    table = (np.arange(high + 1, dtype=np.uint32).clip(max=most) * 255 + most // 2) // most
    grey = table.astype(np.uint8)[values]
    return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")
