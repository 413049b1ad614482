"""Picture files without what is not picture: no place, no camera, no comment, nothing behind the end.

Every walk copies the parts that it knows to be pixels or colours and leaves out the rest, so what no one has thought of
is left out too. Nothing is compressed again: the pixels stay as they are.
"""

import re

from PIL import Image

ORIENTATION = 0x0112
"""The one EXIF tag that changes what is seen."""

_PNG_KEPT = frozenset([b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP"])
_WEBP_KEPT = frozenset([b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP"])
_WEBP_FLAGS = 0x30  # of VP8X: a colour profile, transparency; the others announce metadata or an animation
# Inside a scan 0xFF is followed by 0x00 or a restart marker; before a marker it may be repeated.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def bare_png(data: bytes) -> bytes:
    """A PNG with nothing but its pixels and what says how to read their colours.

    A chunk is four bytes of length, four of its name, the content, four of a checksum.

    Raises:
        ValueError: it has no end.
    """
    kept, place = [data[:8]], 8
    while True:
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            raise ValueError("a PNG without its end")
        name = data[place + 4 : place + 8]
        if name in _PNG_KEPT:
            kept.append(data[place:end])
        if name == b"IEND":
            return b"".join(kept)
        place = end


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
