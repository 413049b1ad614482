"""Bytes to pixels: whatever comes in, an upright 8-bit RGB picture of bounded size comes out, or one line of complaint.

Sizes are read from the header and checked before anything is decoded, because a few kilobytes can claim gigabytes of
pixels. What is beside the pixels (texts, profiles, an end marker) is not needed, and hinders nothing.
"""

import io
import warnings
from collections.abc import Callable
from typing import TypeVar

from PIL import Image, ImageFile

from fourfold.assistant.images import jpeg, png
from fourfold.assistant.images.formats import FORMATS, isolated_format, unknown_format
from fourfold.assistant.images.isolated import decode_isolated, hashes_isolated, load_isolated
from fourfold.assistant.images.limits import LIMITS, ImageLimits, printable
from fourfold.assistant.images.pixels import check_depth, is_deep, is_turned, pixel_hash, rgb_of, turned
from fourfold.prompts.errors import UserError

_Found = TypeVar("_Found")

# Pillow warns about large pictures and broken metadata: the caps here are lower, and metadata is not needed.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# It refuses twice as many: what a JPEG may have that is decoded at half its size.
Image.MAX_IMAGE_PIXELS = 2 * LIMITS.pixels

_SPARE = 2
"""How many times the model's square a picture decoded in part still is, both ways: shrunk from there, a 12-megapixel
photo differs by 0.2 to 0.3 of 255 on average from one decoded in full, and by 5 at most."""
_MISSING = (b"", b"\x55" * 64, b"\xaa" * 64)
"""What may stand in place of the pixels that a JPEG lacks: nothing, and bits in which no two are alike."""
_CHECKED = 1024
"""Pixels a side at which a JPEG without its end is looked at."""


def load_image_bytes(
    data: bytes,
    name: str = "the image",
    limits: ImageLimits = LIMITS,
    side: int | None = None,
    *,
    isolated: bool = False,
) -> Image.Image:
    """Decode an image from memory.

    Transparency is composited on white; grey of more than 8 bits is scaled by its depth; CMYK becomes RGB; an animation
    gives its first frame; EXIF orientation is applied. A JPEG with too many pixels is decoded at half its size, if it
    is within the limits then.

    Args:
        data: The encoded file: PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP or TIFF.
        name: What error messages call it.
        limits: Caps on size, checked before decoding.
        side: Pixels a side of the square that a model will make of it, where that is all it is for: a JPEG that is
            much larger is then decoded at a half, a quarter or an eighth of its size, in a fraction of the time.
        isolated: Decode every format in a process of its own, as AVIF and HEIC always are.

    Returns:
        An upright RGB image; `info["pixels"]` says how many of those in the file were counted against the limits: all,
        or of a JPEG that is beyond them a quarter.

    Raises:
        UserError: Empty, too large, of an unknown format, or damaged.
    """
    name = printable(name)
    if isolated and _is_for_pillow(data, limits):
        return load_isolated(data, name, limits, side)

    def upright(image: Image.Image, pixels: int, cut: bool) -> Image.Image:
        if cut:
            check_depth(image, name)
        rgb = rgb_of(image, name)
        rgb.info = {"pixels": pixels}  # place and camera of the photographer stay behind
        return rgb

    return _open(data, name, limits, side, upright)


def pixel_hashes(data: bytes, name: str, limits: ImageLimits, *, isolated: bool = False) -> set[str]:
    """`pixels:...` of the pixels as they are stored, as EXIF turns them, and as `load_image_bytes` shows them.

    Raises:
        UserError: as `load_image_bytes`.
    """
    name = printable(name)
    if isolated and _is_for_pillow(data, limits):
        return hashes_isolated(data, name, limits)

    def hashed(image: Image.Image, pixels: int, cut: bool) -> set[str]:
        found = {pixel_hash(image)}
        if is_turned(image):
            found.add(pixel_hash(turned(image)))
        if image.mode != "RGB":
            found.add(pixel_hash(rgb_of(image, name)))
        return found

    return _open(data, name, limits, None, hashed)


def _is_for_pillow(data: bytes, limits: ImageLimits) -> bool:
    """Whether a decoder of `FORMATS` would be asked; what it is too large or too small for is refused without one."""
    return 0 < len(data) <= limits.bytes and isolated_format(data) is None


def open_header(data: bytes) -> ImageFile.ImageFile:
    """The file of one of `FORMATS` without its pixels; headers of damaged files raise almost anything."""
    content = png.bare_pixels(data) if data.startswith(png.SIGNATURE) else data
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _open(
    data: bytes,
    name: str,
    limits: ImageLimits,
    side: int | None,
    use: Callable[[Image.Image, int, bool], _Found],
) -> _Found:
    """What `use` makes of the loaded file, of its pixels that count, and of whether Pillow cut its colours to 8 bits.

    Whatever fails is a `UserError`.
    """
    if not data:
        raise UserError(f"{name} is empty; send an image file")
    if len(data) > limits.bytes:
        raise UserError(limits.too_many_bytes(name, len(data)))
    if kind := isolated_format(data):
        image = decode_isolated(data, kind, name, limits, side and side * _SPARE)
        return use(image, image.info["pixels"], False)
    try:
        try:
            return _load(data, name, limits, side, use)
        except OSError as error:
            if "truncated" not in str(error) or (whole := _ended(data)) is None:
                raise
            return _load(whole, name, limits, side, use)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(limits.too_many_pixels(name, None)) from None
    except Image.UnidentifiedImageError:
        raise UserError(unknown_format(data, name)) from None
    except MemoryError:
        raise UserError(f"{name} takes too much memory to decode; make it smaller") from None
    except Exception as error:  # decoders of damaged files raise almost anything: SyntaxError, struct.error, IndexError
        reason = printable(str(error)) or type(error).__name__
        raise UserError(f"{name} is damaged or cut short ({reason}); save or send it again") from None


def _load(
    data: bytes,
    name: str,
    limits: ImageLimits,
    side: int | None,
    use: Callable[[Image.Image, int, bool], _Found],
) -> _Found:
    with open_header(data) as image:
        width, height = image.size
        is_jpeg = image.format in ("JPEG", "MPO")
        scale = 1
        if not limits.hold(width, height):
            scale = 2
            if not (is_jpeg and limits.hold(-(-width // 2), -(-height // 2)) and jpeg.can_be_halved(data)):
                raise UserError(limits.too_many_pixels(name, image.size))
        # Inside entropy-coded data 0xFF is followed by 0x00, so this counts scans, and those of thumbnails.
        if is_jpeg and data.count(b"\xff\xda") > jpeg.MAX_SCANS:
            raise UserError(f"{name} is a JPEG with more than {jpeg.MAX_SCANS} scans; save it as a JPEG or PNG anew")
        pixels = -(-width // scale) * -(-height // scale)
        if side is not None and is_jpeg:
            scale = max(scale, *(part for part in (1, 2, 4, 8) if min(width, height) >= part * side * _SPARE), 1)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
        cut = is_deep(image)
        image.load()
        return use(image, pixels, cut)


def _ended(data: bytes) -> bytes | None:
    """A cut JPEG with its end marker, if that was all it lacked; None where it is none or pixels are missing.

    Where a decoder has every pixel, what stands between the last one and the end marker changes nothing. Where it
    lacks some, it makes them of what stands there.
    """
    if not data.startswith(b"\xff\xd8") or not jpeg.has_every_scan(data):
        return None
    begun = data.rstrip(b"\xff")
    pictures = set()
    for filling in _MISSING:
        with Image.open(io.BytesIO(begun + filling + jpeg.END), formats=["JPEG"]) as image:
            scale = max(1, min(image.size) // _CHECKED)
            image.draft(None, (image.width // scale, image.height // scale))
            pictures.add(image.tobytes())
    return begun + jpeg.END if len(pictures) == 1 else None
