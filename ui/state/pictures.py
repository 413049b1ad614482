"""Pictures on their way in, made safe and free of where they were taken, and on their way to the screen."""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image

from fourfold.assistant.chat.look_again import crop
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import PDF, SUFFIXES, Attachment, Document, is_pdf
from fourfold.assistant.images.decoding import open_header
from fourfold.prompts.errors import UserError
from fourfold.ui.state.metadata import bare_jpeg, bare_png, bare_webp, orientation_of

TYPES = tuple(sorted(suffix.removeprefix(".") for suffix in SUFFIXES | {PDF}))
"""Endings of the files that can be chosen."""

MOST = 10
"""Pictures of one question."""

SHOWN = 1024
"""Pixels a side of a picture on the screen."""

_BYTES = 20 * 2**20  # of a picture as it is sent: what our server takes, and others take less
_SIDE = 6000  # pixels a side to which a photo is made smaller that has more bytes


@dataclass(frozen=True)
class Shown:
    """A picture for the screen."""

    uri: str  # of a smaller copy
    width: int  # of the upright original, in pixels
    height: int


@dataclass(frozen=True)
class Taken:
    """What became of files that somebody chose.

    Attributes:
        pictures: to be asked about.
        documents: of which pages are to be chosen.
        complaints: a sentence for each file that is neither.
    """

    pictures: list[Attachment] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def take_all(files: Iterable[tuple[str, bytes]]) -> Taken:
    """Sort out files by what they are; a document of one page is a picture."""
    found = Taken()
    for name, data in files:
        try:
            if not is_pdf(data):
                found.pictures.append(take(data, name))
                continue
            document = Document.read(data, name)
            if document.pages == 1:
                found.pictures.append(document.page(1))
            else:
                found.documents.append(document)
        except UserError as error:
            found.complaints.append(str(error))
    return found


def take(data: bytes, name: str = "the picture") -> Attachment:
    """What to keep of a picture that somebody chose.

    JPEG, PNG and WebP stay as they are, pixel for pixel, without their metadata (place, camera, texts, thumbnails);
    which way is up is kept. Everything else becomes a PNG, because few endpoints read it, and AVIF and HEIC, which are
    photos, a JPEG. What has more bytes than can be sent, or more pixels than are decoded whole, becomes a smaller JPEG.

    Raises:
        UserError: it is too large, damaged, or no picture.
    """
    given = Attachment(data, name)
    upright = given.decode()  # within its limits, whatever it is
    kept = _bare(given, upright)
    return kept if len(kept.content) <= _BYTES else _smaller(upright, name)


def _bare(given: Attachment, upright: Image.Image) -> Attachment:
    data, name, kind = given.content, given.name, given.media_type
    if kind in ("image/avif", "image/heic"):
        return given.portable
    orientation = orientation_of(given)
    if kind == "image/jpeg":
        halved = upright.width * upright.height < _pixels(data)
        return _smaller(upright, name) if halved else Attachment(bare_jpeg(data, orientation), name)
    if kind in ("image/png", "image/webp") and orientation == 1:
        with contextlib.suppress(ValueError):
            return Attachment(bare_png(data) if kind == "image/png" else bare_webp(data), name)
    return Attachment.from_image(upright, name)


def _pixels(data: bytes) -> int:
    """Those that the file says it has."""
    with open_header(data) as image:
        return image.width * image.height


def _smaller(upright: Image.Image, name: str) -> Attachment:
    small = upright.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return Attachment.from_photo(small, name)


@lru_cache(maxsize=4)
def decoded(picture: Attachment) -> Image.Image:
    """The upright picture, RGB; decoded once for as long as it is in use."""
    return picture.decode()


@lru_cache(maxsize=64)
def shown(picture: Attachment, longest: int = SHOWN) -> Shown:
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
