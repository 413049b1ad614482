"""Pictures on their way in, made safe and free of where they were taken, and on their way to the screen."""

import base64
import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import load_image_bytes

TYPES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
"""Endings of the files that can be chosen."""

_ORIENTATION = 0x0112  # the one EXIF tag that changes what is seen


@dataclass(frozen=True)
class Shown:
    """A picture for the screen.

    Attributes:
        uri: a data URI, no longer than it has to be.
        width, height: of the upright original, in pixels.
    """

    uri: str
    width: int
    height: int


def take(data: bytes, name: str = "the picture") -> bytes:
    """The bytes to keep of a picture that somebody chose.

    JPEG, PNG and WebP stay as they are, pixel for pixel, without their metadata (place, camera, thumbnails); which way
    is up is kept. Everything else becomes a PNG, because few endpoints read it.

    Raises:
        UserError: it is too large, damaged, or no picture.
    """
    upright = load_image_bytes(data, name)  # decodes it within its limits, whatever it is
    with Image.open(io.BytesIO(data)) as image:
        kind, animated, exif = image.format, getattr(image, "is_animated", False), image.getexif()
    if kind in ("JPEG", "MPO"):
        return _without_metadata(data, exif.get(_ORIENTATION, 1))
    if kind in ("PNG", "WEBP") and not animated and not exif and b"iTXt" not in data and b"XMP " not in data:
        return data
    out = io.BytesIO()
    upright.save(out, "PNG")
    return out.getvalue()


def decoded(data: bytes) -> Image.Image:
    """The upright picture, RGB; decoded once for as long as it is in use."""
    return _decode(hashlib.sha256(data).hexdigest(), _Bytes(data))


def shown(data: bytes, longest: int = 1024) -> Shown:
    """A picture for the screen, scaled down where it has more than `longest` pixels a side."""
    return _shown(hashlib.sha256(data).hexdigest(), longest, _Bytes(data))


def cut(data: bytes, box: Box) -> Image.Image:
    """The part of a picture that a box holds, at least one pixel."""
    image = decoded(data)
    x1, y1, x2, y2 = (round(side) for side in box.to_pixels(image.width, image.height))
    x1, y1 = min(x1, image.width - 1), min(y1, image.height - 1)
    return image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


class _Bytes:
    """Bytes that count as equal to any others: the hash beside them is the key of a cache."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bytes)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4)
def _decode(sha256: str, data: _Bytes) -> Image.Image:
    return load_image_bytes(data.data)


@lru_cache(maxsize=64)
def _shown(sha256: str, longest: int, data: _Bytes) -> Shown:
    image = load_image_bytes(data.data)
    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    uri = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
    return Shown(uri, image.width, image.height)


def _without_metadata(data: bytes, orientation: int) -> bytes:
    """A JPEG without comments and application segments but those that say how to read its colours.

    The segments stand before the first scan: marker 0xFF 0xXX, then two bytes of length that count themselves.
    """
    kept, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker == 0xDA:  # start of scan: the rest is pixels
            break
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        # 0xE0 JFIF, 0xE2 colour profile, 0xEE Adobe's colour transform; 0xE1 EXIF and XMP, 0xED IPTC, 0xFE comment.
        colour_profile = marker == 0xE2 and data[place + 4 : place + 16] == b"ICC_PROFILE\0"
        if marker in (0xE0, 0xEE) or colour_profile or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[place:end])
        place = end
    if orientation in range(2, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        body = exif.tobytes()
        kept.insert(1, b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body)
    return b"".join([*kept, _one_picture(data[place:])])


def _one_picture(scans: bytes) -> bytes:
    """Up to the end of the first picture: phones put more behind it, depth maps and films.

    Inside a scan 0xFF is always followed by 0x00 or a restart marker, and no Huffman table holds it.
    """
    end = scans.find(b"\xff\xd9")
    return scans[: end + 2] if end >= 0 else scans
