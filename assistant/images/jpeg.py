"""What the markers of a JPEG tell without decoding it: how it is to be read, and whether all of it is there."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

END = b"\xff\xd9"
MAX_SCANS = 200
"""A progressive JPEG of ordinary tools has about ten scans; each one costs a pass over the whole picture."""

_COEFFICIENTS = 64  # of a block
_IN_ONE_PASS = (0xC0, 0xC1)  # frames of sequential Huffman coding
# Inside a scan 0xFF is followed by 0x00 or a restart marker; before a marker it may be repeated. 0x01 has no length.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


@dataclass(frozen=True)
class _Scan:
    components: tuple[int, ...]
    first: int  # of its coefficients, 0..63
    last: int
    low: int  # the lowest bit that it brings; 0 for all of them


def can_be_halved(data: bytes) -> bool:
    """Whether a decoder holds only some rows of it at a time, so that decoding it smaller takes less memory.

    A progressive one, or one with a scan for each colour, is held whole, as two bytes a coefficient.
    """
    frame, components, scans = _read(data)
    return frame in _IN_ONE_PASS and bool(scans) and set(scans[0].components) == set(components)


def has_every_scan(data: bytes) -> bool:
    """Whether each colour has all its coefficients with all their bits; a scan may still be cut off inside."""
    frame, components, scans = _read(data)
    if frame in _IN_ONE_PASS:
        return set(components) <= {component for scan in scans for component in scan.components}
    precise = {
        (component, place)
        for scan in scans
        if scan.low == 0
        for component in scan.components
        for place in range(scan.first, min(scan.last, _COEFFICIENTS - 1) + 1)
    }
    return bool(components) and len(precise) == _COEFFICIENTS * len(set(components))


def _read(data: bytes) -> tuple[int, list[int], list[_Scan]]:
    """The frame's marker, the components that it names, and the scans up to the end of the first picture."""
    frame, components, scans = 0, list[int](), list[_Scan]()
    for marker, body in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not frame:
            frame, components = marker, list(body[6::3])
        elif marker == 0xDA and body and len(body) >= 2 * body[0] + 4:
            first, last, bits = body[2 * body[0] + 1 : 2 * body[0] + 4]
            scans.append(_Scan(tuple(body[1 : 2 * body[0] + 1 : 2]), first, last, bits & 15))
            if len(scans) > MAX_SCANS:
                break
    return frame, components, scans


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers with what they hold. A segment is 0xFF 0xXX and two bytes of length that count themselves."""
    place = 2
    while found := _MARKER.search(data, place):
        start, marker = found.start(), data[found.start() + 1]
        if marker == END[1]:
            return
        place = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, data[start + 4 : place]
