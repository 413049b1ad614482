"""What a conversation may leave behind, and finding it: a picture and words that are nowhere else in the world.

A picture is looked for as its file, its base64, its rows of pixels, its hashes and numbers of its tower, and as any
picture that looks like it: whatever file or data URI of a picture stands in the bytes is decoded and compared.
"""

import base64
import binascii
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from fourfold.assistant.images import Attachment

_FILES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a", re.DOTALL)
_ENCODED = re.compile(rb"[A-Za-z0-9+/]{400,}={0,2}|[A-Za-z0-9_-]{400,}")
_PATCHES = 6
_ALIKE = 20.0  # of 255, between the greys of so many patches; two pictures of different seeds are 60 apart


@dataclass(frozen=True)
class Canary:
    """Words, and a picture of coloured patches with noise in them.

    Attributes:
        seed: of both.
        numbers: what a tower made of the picture, as it would be stored, by name.
    """

    seed: int
    numbers: Mapping[str, bytes] = field(default_factory=dict, compare=False)

    @cached_property
    def words(self) -> str:
        """Two words that nobody says."""
        letters = np.random.default_rng(self.seed).integers(0, 21, 24)
        text = "".join("bcdfghjklmnpqrstvwxyz"[number] for number in letters)
        return f"Canary{text[:12]} and {text[12:]}"

    @cached_property
    def image(self) -> Image.Image:
        rng = np.random.default_rng(self.seed)
        patches = rng.choice([20, 130, 240], (_PATCHES, _PATCHES, 3))
        large = np.kron(patches, np.ones((24, 24, 1))) + rng.integers(-15, 15, (_PATCHES * 24, _PATCHES * 24, 3))
        return Image.fromarray(large.clip(0, 255).astype(np.uint8))

    @cached_property
    def file(self) -> bytes:
        """As PNG."""
        return Attachment.from_image(self.image).content

    @property
    def attachment(self) -> Attachment:
        return Attachment(self.file)

    @cached_property
    def signs(self) -> dict[str, bytes]:
        """Bytes that are nowhere but where something of it is."""
        found = dict(self.numbers)
        for place, word in enumerate(self.words.lower().split()[::2]):
            found |= {f"word {place}": word.encode(), f"word {place} in UTF-16": word.encode("utf-16-le")}
        for place, word in enumerate(self.words.split()[::2]):
            found |= {f"base64 {n} of word {place}": text for n, text in enumerate(_in_base64(word.encode()))}
        pixels = np.asarray(self.image)
        middle = pixels[50, 20:60]
        rgba = np.concatenate([middle, np.full((40, 1), 255, np.uint8)], axis=1)
        found |= {"pixels": middle.tobytes(), "RGBA pixels": rgba.tobytes(), "planes": middle[:, 0].tobytes()}
        found |= {"floats": (middle.astype(np.float32) / 255).tobytes()[:48]}
        inside = self.file[len(self.file) // 2 :][:60]
        found |= {"file": inside}
        found |= {f"file in base64 {n}": text for n, text in enumerate(_in_base64(inside))}
        for name in ("bytes", "pixels"):
            [digest] = [one.partition(":")[2] for one in self.attachment.hashes if one.startswith(name)]
            found |= {f"hash of its {name}": digest.encode(), f"digest of its {name}": bytes.fromhex(digest)}
        return found

    def in_bytes(self, data: bytes) -> set[str]:
        """Names of the signs that are in there, and "a picture of it"."""
        found = set()
        for content in _unpacked(data):
            folded = content.lower()
            found |= {
                name for name, sign in self.signs.items() if sign in (folded if name.startswith("word") else content)
            }
            if any(self.is_shown_by(picture) for picture in _pictures(content)):
                found.add("a picture of it")
        return found

    def is_shown_by(self, image: Image.Image) -> bool:
        """Whether a picture looks like it, at whatever size."""
        mine, other = (np.asarray(one.convert("L").resize((_PATCHES, _PATCHES), Image.Resampling.BOX), float)
                       for one in (self.image, image))  # fmt: skip
        return bool(np.abs(mine - other).mean() < _ALIKE)

    def below(self, *directories: Path) -> dict[str, set[str]]:
        """Files in which something of it is, with the names of the signs."""
        found = {}
        for directory in directories:
            for path in sorted(directory.rglob("*")):
                if path.is_file() and not path.is_symlink() and (signs := self.in_bytes(path.read_bytes())):
                    found[str(path.relative_to(directory))] = signs
                if signs := self.in_bytes(path.name.encode()):
                    found[f"{path.relative_to(directory)} (its name)"] = signs
        return found


def _in_base64(data: bytes) -> list[bytes]:
    """What stands in a base64 text wherever these bytes begin in it."""
    return [base64.b64encode(b"\0" * shift + data)[4 if shift else 0 :][:-4] for shift in range(3)]


def _unpacked(data: bytes) -> Iterator[bytes]:
    yield data
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from _unpacked(archive.read(name))
    elif data[:2] == b"\x1f\x8b":
        yield from _unpacked(gzip.decompress(data))
    elif data[:1] == b"\x78":
        try:
            yield zlib.decompress(data)
        except zlib.error:
            return


def _pictures(data: bytes) -> Iterator[Image.Image]:
    """All that can be decoded of the pictures in there, also in base64."""
    for block in [data, *map(_from_base64, _ENCODED.findall(data))]:
        for found in _FILES.finditer(block):
            try:
                with Image.open(io.BytesIO(block[found.start() :])) as image:
                    image.load()
                    yield image
            except (OSError, ValueError, SyntaxError):
                continue


def _from_base64(text: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(text.replace(b"+", b"-").replace(b"/", b"_").rstrip(b"=") + b"==")
    except (binascii.Error, ValueError):
        return b""
