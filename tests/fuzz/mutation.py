"""An input to one that is nearly like it. Everything follows from the seed."""

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

_NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63, 10**40, 10**400),
    *("", " ", "\0", "a", "\ud800", "﷽" * 50, "../../etc/passwd", "1" * 5000, "<ImageHere>", "<|im_end|>", "{}", "[]"),
    *("data:image/png;base64,", "https://127.0.0.1/", "file:///etc/passwd", "NaN", "(a+)+$", "\u202e", "{{7*7}}"),
    *([], {}, [[]], [None], {"": None}, [1, 2, 3, 4], [[1, 2, 3, 4]], {"$ref": "#"}, {"type": "object"}),
)
"""What programs trip over."""
_SPLICES = (
    b"\0",
    b"\xff",
    b"\xff\xd8\xff\xda",
    b"IDAT",
    b"%PDF-",
    b"ftypavif",
    b"PK\x03\x04",
    b"\x80\x04",
    b"\n",
    b"{",
    b"[",
)


class Mutator:
    """Makes inputs of inputs.

    Attributes:
        flipped: bytes that were given another value, so far.
        edits: values of JSON and pieces of text that were changed, put in or taken out.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.flipped = self.edits = 0

    def bytes(self, data: bytes) -> bytes:
        """Bytes flipped, numbers written over, parts cut, doubled, or put elsewhere."""
        changed = bytearray(data or b"\0")
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            self.random.choice((self._flip, self._flip, self._flip, self._number, self._cut, self._copy, self._splice))(
                changed
            )
            changed = changed or bytearray(b"\0")
        return bytes(changed)

    def flips(self, data: bytes) -> bytes:
        """Bytes flipped alone: the file keeps its length."""
        changed = bytearray(data or b"\0")
        self._flip(changed)
        return bytes(changed)

    def json(self, data: bytes) -> bytes:
        """A JSON text with values that were changed, doubled, moved, nested or taken out; some of its bytes, too."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return self.bytes(data)
        if self.random.random() < 0.1:
            return self.bytes(data)
        for _ in range(self.random.choice((1, 1, 2, 3, 6))):
            value = self.value(value)
        try:
            return json.dumps(value).encode()
        except (ValueError, RecursionError):
            return self.bytes(data)

    def value(self, value: Any) -> Any:
        """The same for a value that was read already."""
        self.edits += 1
        places = list(_places(value, ()))
        if not places or self.random.random() < 0.02:
            return self._replaced(value)
        path = self.random.choice(places)
        holder = value
        for step in path[:-1]:
            holder = holder[step]
        key, old = path[-1], holder[path[-1]]
        kind = self.random.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1:  # another's value
            other = value
            for step in self.random.choice(places):
                other = other[step]
            holder[key] = json.loads(json.dumps(other))
        elif kind == 2 and isinstance(holder, dict):  # another's name
            holder[self.random.choice([str(one[-1]) for one in places])] = old
        elif kind == 2:
            holder.extend([old] * self.random.choice((1, 2, 50)))
        elif kind == 3:
            for _ in range(self.random.choice((1, 2, 40))):
                old = [old] if self.random.random() < 0.5 else {str(key): old}
            holder[key] = old
        else:
            holder[key] = self._replaced(old)
        return value

    def text(self, data: bytes, pieces: Sequence[str], longest: int = 1500) -> bytes:
        """A text with `pieces` put in, doubled, cut out or written over; now and then raw bytes."""
        if self.random.random() < 0.1:
            return self.bytes(data)
        text = data.decode("utf-8", "replace")
        for _ in range(self.random.choice((1, 1, 2, 4, 8))):
            self.edits += 1
            at = self.random.randrange(len(text) + 1)
            end = min(at + self.random.choice((0, 0, 1, 5, 30)), len(text))
            piece = self.random.choice(pieces)
            if self.random.random() < 0.2:
                piece = text[at : at + 60] * self.random.choice((1, 2, 20))
            text = (text[:at] + piece * self.random.choice((1, 1, 1, 2, 30)) + text[end:])[:longest]
        return text.encode("utf-8", "replace")

    def _replaced(self, old: Any) -> Any:
        if isinstance(old, bool) or old is None or self.random.random() < 0.4:
            return json.loads(json.dumps(self.random.choice(VALUES)))
        if isinstance(old, int):
            return self.random.choice((old + 1, old - 1, -old, old * 1000, f"{old}.0"[:30], *_NUMBERS, [old]))
        if isinstance(old, float):
            return self.random.choice((old * -1, old * 1e6, int(old) if abs(old) < 1e300 else 0, str(old)))
        if isinstance(old, str):
            raw = self.bytes(old.encode("utf-8", "replace")).decode("utf-8", "replace")
            return self.random.choice((raw, raw, old * 2, old * 100 if len(old) < 100 else old[:3], old.upper(), [old]))
        return self.random.choice(([old], {"a": old}, list(old)))

    def _flip(self, data: bytearray) -> None:
        count = min(self.random.choice((1, 1, 2, 4, 8, 32, 128)), len(data))
        # Headers are where decoders decide: half of the time near one place.
        start, width = 0, len(data)
        if self.random.random() < 0.5:
            width = min(len(data), self.random.choice((8, 32, 128)))
            start = self.random.randrange(len(data) - width + 1)
        for _ in range(count):
            data[start + self.random.randrange(width)] ^= self.random.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))
        self.flipped += count

    def _number(self, data: bytearray) -> None:
        written = struct.pack(self.random.choice("<>") + "Q", self.random.choice(_NUMBERS))
        written = self.random.choice((written[:1], written[-2:], written[:2], written[-4:], written[:4], written))
        at = self.random.randrange(len(data))
        end = min(at + len(written), len(data))
        data[at:end] = written[: end - at]
        self.flipped += end - at

    def _cut(self, data: bytearray) -> None:
        at = self.random.randrange(len(data))
        del data[at : at + self.random.choice((1, 4, 16, 256, len(data)))]

    def _copy(self, data: bytearray) -> None:
        at, to = self.random.randrange(len(data)), self.random.randrange(len(data))
        part = data[at : at + self.random.choice((1, 4, 16, 256))]
        data[to:to] = part * self.random.choice((1, 1, 2, 16))

    def _splice(self, data: bytearray) -> None:
        at = self.random.randrange(len(data))
        data[at:at] = self.random.choice(_SPLICES)


def png_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have their right checksums again, so that a decoder looks further than at these."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, place = bytearray(data), 8
    while place + 12 <= len(out):
        end = place + 8 + int.from_bytes(out[place : place + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[place + 4 : end]))
        place = end + 4
    return bytes(out)


def named(name: str, content: bytes) -> bytes:
    """A file of a directory as one input."""
    return name.encode() + b"\0" + content


def parted(data: bytes) -> tuple[str, bytes]:
    """Name and content of `named`."""
    name, _, content = data.partition(b"\0")
    return name.decode("utf-8", "replace"), content


def by_name(ways: Sequence[tuple[str, Callable[[Mutator, bytes], bytes]]]) -> Callable[[Mutator, bytes], bytes]:
    """How to mutate a `named` file, by what its name ends in; the name stays."""

    def mutate(mutator: Mutator, data: bytes) -> bytes:
        name, content = parted(data)
        way = next((way for ending, way in ways if name.endswith(ending)), Mutator.bytes)
        return named(name, way(mutator, content))

    return mutate


def safetensors(mutator: Mutator, data: bytes) -> bytes:
    """A safetensors file with another header, whose length is right more often than not, or with other bytes."""
    size = int.from_bytes(data[:8], "little")
    if size > len(data) or mutator.random.random() < 0.4:
        return mutator.bytes(data)
    header = mutator.json(data[8 : 8 + size])
    length = len(header) if mutator.random.random() < 0.9 else mutator.random.choice(_NUMBERS)
    return struct.pack("<Q", length % 2**64) + header + data[8 + size :]


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:200])
    else:
        return
    for key, inner in items:
        yield (*path, key)
        if len(path) < 12:
            yield from _places(inner, (*path, key))
