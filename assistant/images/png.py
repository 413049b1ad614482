"""A PNG without what is beside its pixels: texts and profiles may be huge, or damaged, and change nothing."""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Transparency, and which way is up: as EXIF and as XMP, which is a text that is not compressed.
_KEPT = frozenset([b"tRNS", b"eXIf"])
_XMP = b"XML:com.adobe.xmp\0\0"
_LARGEST = 2**20  # bytes of a chunk that says which way is up


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, where it begins and where it ends, which is behind the file's end where it is cut off.

    A chunk is four bytes of length, four of its name, the content, four of a checksum.
    """
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        yield name, place, end
        if name == b"IEND":
            return
        place = end


def is_sound(chunk: bytes) -> bool:
    """Whether something beside the pixels is of a likely size and has its right checksum."""
    return len(chunk) <= _LARGEST and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def bare_pixels(data: bytes) -> bytes:
    """The chunks that make the picture: those that every decoder has to know, transparency, and which way is up.

    Where the latter are not sound they are left out as well. An animation becomes its still picture.
    """
    kept = [SIGNATURE]
    for name, start, end in chunks(data):
        chunk = data[start:end]
        needed = not name[0] & 32  # a small first letter: decoders may leave it out
        known = name in _KEPT or (name == b"iTXt" and chunk[8:].startswith(_XMP))
        if needed or (known and is_sound(chunk)):
            kept.append(chunk)
    return b"".join(kept)
