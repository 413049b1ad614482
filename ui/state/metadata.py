"""Picture files without what is not picture: no place, no camera, no comment, nothing behind the end.

Every walk copies the parts that it knows to be pixels or colours and leaves out the rest, so what no one has thought of
is left out too. Nothing is compressed again: the pixels stay as they are.
"""

import re
import zlib

from PIL import Image

from fourfold.assistant.images import Attachment
from fourfold.assistant.images.decoding import open_header
from fourfold.assistant.images.png import SIGNATURE, chunks, is_sound

ORIENTATION = 0x0112
"""The one EXIF tag that changes what is seen."""

_PNG_PIXELS = frozenset([b"IHDR", b"PLTE", b"IDAT", b"IEND"])
_PNG_COLOURS = frozenset([b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP"])
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_LARGEST_PROFILE = 2**20  # bytes unpacked; readers refuse a picture with a larger one
_WEBP_KEPT = frozenset([b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP"])
_WEBP_FLAGS = 0x30  # of VP8X: a colour profile, transparency; the others announce metadata or an animation
# Inside a scan 0xFF is followed by 0x00 or a restart marker; before a marker it may be repeated.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def orientation_of(picture: Attachment) -> int:
    """EXIF's number for which way is up, 1 where it says nothing; 0 where the picture moves."""
    with open_header(picture.content) as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":
            return 0
        return image.getexif().get(ORIENTATION, 1)


def bare_png(data: bytes) -> bytes:
    """A PNG with nothing but its pixels and what says how to read their colours.

    What is damaged or oversized among the latter is left out, or other readers would refuse the picture.

    Raises:
        ValueError: it is cut off.
    """
    kept, last = [data[: len(SIGNATURE)]], b""
    for last, start, end in chunks(data):
        chunk = data[start:end]
        if end > len(data):
            raise ValueError("a PNG without its end")
        if last in _PNG_PIXELS or (last in _PNG_COLOURS and is_sound(chunk) and not _unpacks_large(last, chunk)):
            kept.append(chunk)
    if last != b"IEND":
        kept.append(_PNG_END)
    return b"".join(kept)


def _unpacks_large(name: bytes, chunk: bytes) -> bool:
    if name != b"iCCP":
        return False
    packed = chunk[8:-4].partition(b"\0")[2][1:]  # behind its name and how it is packed
    try:
        return len(zlib.decompressobj().decompress(packed, _LARGEST_PROFILE + 1)) > _LARGEST_PROFILE
    except zlib.error:
        return True


def bare_webp(data: bytes) -> bytes:
    """A WebP that does not move, with nothing but its pixels and their colour profile.

    A chunk is four bytes of its name, four of its length, the content, and a byte where the length is odd; all of them
    are inside one RIFF chunk.

    Raises:
        ValueError: it is cut off.
    """
    chunks: dict[bytes, bytes] = {}  # the first of each kind is the one that is shown
    place, riff = 12, 8 + int.from_bytes(data[4:8], "little")
    while place + 8 <= riff:
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        content = data[place + 8 : place + 8 + size]
        if len(content) < size:
            raise ValueError("a WebP without its end")
        if name == b"VP8X":
            content = bytes([content[0] & _WEBP_FLAGS]) + content[1:]
        if name in _WEBP_KEPT:
            chunks.setdefault(name, name + size.to_bytes(4, "little") + content + b"\0" * (size % 2))
        place += 8 + size + size % 2
    body = b"WEBP" + b"".join(chunks.values())
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def bare_jpeg(data: bytes, orientation: int) -> bytes:
    """A JPEG without comments and application segments but those that say how to read its colours.

    A segment is a marker, 0xFF 0xXX, and two bytes of length that count themselves. What phones put behind the end of
    the first picture (depth maps, films) is left out.

    Args:
        data: the file.
        orientation: EXIF's, 1 to 8; which way is up is kept.
    """
    kept, place = [data[:2]], 2
    if orientation in range(2, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        body = exif.tobytes()
        kept.append(b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body)
    while found := _JPEG_MARKER.search(data, place):
        start, marker = found.start(), data[found.start() + 1]
        if marker == 0xD9:  # the end
            break
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        # 0xE0 JFIF, 0xE2 colour profile, 0xEE Adobe's colour transform; 0xE1 EXIF and XMP, 0xED IPTC, 0xFE comment.
        colour_profile = marker == 0xE2 and data[start + 4 : start + 16] == b"ICC_PROFILE\0"
        if marker == 0xDA:  # a scan: its pixels follow, up to the next marker
            following = _JPEG_MARKER.search(data, end)
            end = following.start() if following else len(data)
        if marker in (0xE0, 0xEE) or colour_profile or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[start:end])
        place = end
    return b"".join([*kept, b"\xff\xd9"])
