"""`Attachment`: an encoded image file in memory, from wherever it came, and the forms in which it travels."""

import base64
import binascii
import hashlib
import io
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

from fourfold.assistant.images.decoding import load_image_bytes, open_header, pixel_hashes
from fourfold.assistant.images.formats import ISOLATED, is_pdf, isolated_format, split_page, unknown_format
from fourfold.assistant.images.isolated import render_pages
from fourfold.assistant.images.limits import LIMITS, ImageLimits, printable
from fourfold.prompts.errors import UserError

PAGE_SIDE = 2000
"""Pixels of a page's longer side: letters of the main text of an A4 page are then about 20 pixels high."""
_QUALITY = 92  # of a JPEG that stands for another photo
_SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
    "image/heic": ".heic",
}


@dataclass(frozen=True)
class Attachment:
    """An encoded image file in memory: what is stored, hashed, sent and decoded.

    Attributes:
        content: the file, within `limits.bytes`; not looked into until something asks.
        name: what error messages call it.
        limits: of decoding.
        isolated: whether it is decoded in a process of its own, which may die; for what comes from strangers.
    """

    content: bytes = field(repr=False)
    name: str = "the image"
    limits: ImageLimits = LIMITS
    isolated: bool = False

    def __post_init__(self) -> None:
        if not self.content:
            raise UserError(f"{printable(self.name)} is empty; send an image file")
        if len(self.content) > self.limits.bytes:
            raise UserError(self.limits.too_many_bytes(printable(self.name), len(self.content)))

    @classmethod
    def from_path(cls, path: str | Path, name: str | None = None, limits: ImageLimits = LIMITS) -> "Attachment":
        """Read a file that the caller chose, or a page of a PDF (`report.pdf#3`), which becomes a PNG.

        Never pass a path that came over the network.

        Raises:
            UserError: it is missing, no regular file, unreadable or too large, or a PDF of which one has to say the
                page.
        """
        file, page = split_page(path)
        data = _read_file(Path(file), limits, name)
        if is_pdf(data):
            return cls.from_pdf(data, page, name or file, limits)
        return cls(data, name or str(path), limits)

    @classmethod
    def from_pdf(
        cls, data: bytes, page: int | None = None, name: str = "the document", limits: ImageLimits = LIMITS
    ) -> "Attachment":
        """A page of a PDF as a picture.

        Args:
            data: the document.
            page: counted from 1; None for that of a document with only one.
            name: what error messages call it.
            limits: of size.

        Raises:
            UserError: it is damaged, locked, or has no such page.
        """
        name = printable(name)
        count, images = render_pages(data, name, limits, [page or 1], PAGE_SIDE)
        if page is None and count > 1:
            raise UserError(f"{name} has {count} pages; name one of them, such as {name}#1")
        if not images or page == 0:
            has = "1 page" if count == 1 else f"{count} pages"
            raise UserError(f"{name} has {has}; there is no page {page}")
        return cls.from_image(images[0], f"{name}, page {page or 1}")

    @classmethod
    def from_data_uri(
        cls, uri: str, name: str = "the image", limits: ImageLimits = LIMITS, *, isolated: bool = False
    ) -> "Attachment":
        """The image of a `data:image/...;base64,...` URI; its encoded length is checked before decoding.

        Raises:
            UserError: it is none, malformed, or too long.
        """
        return cls(decode_data_uri(uri, name, limits), name, limits, isolated)

    @classmethod
    def from_image(cls, image: Image.Image, name: str = "the image") -> "Attachment":
        """A decoded image as PNG."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return cls(buffer.getvalue(), name)

    @classmethod
    def of(cls, given: "ImageInput") -> "Attachment":
        """An attachment of whatever holds an image here: a path, a data URI, bytes, a decoded image or an attachment.

        Raises:
            UserError: it holds none, or is the URL of another machine, which only a server may fetch.
        """
        if isinstance(given, Attachment):
            return given
        if isinstance(given, Image.Image):
            return cls.from_image(given)
        if isinstance(given, bytes):
            return cls(given)
        if isinstance(given, str) and given.startswith("data:"):
            return cls.from_data_uri(given)
        return cls.from_path(given)

    @classmethod
    def from_photo(cls, image: Image.Image, name: str = "the image", limits: ImageLimits = LIMITS) -> "Attachment":
        """A decoded image as JPEG, without metadata: what a photo is sent as whose own file cannot go."""
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        return cls(buffer.getvalue(), name, limits)

    @cached_property
    def sha256(self) -> str:
        """Of the bytes, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def media_type(self) -> str:
        """Such as `image/png`, read from the header without decoding.

        Raises:
            UserError: it is not an image of a format that is read here.
        """
        if kind := isolated_format(self.content):
            return ISOLATED[kind]
        try:
            with open_header(self.content) as image:
                if image.format == "MPO":  # a JPEG with another behind it, which few readers know by its own name
                    return "image/jpeg"
                return image.get_format_mimetype() or "application/octet-stream"
        except Exception:  # headers of damaged files raise almost anything
            raise UserError(unknown_format(self.content, printable(self.name))) from None

    @property
    def suffix(self) -> str:
        """What the name of a file of it ends in, such as `.png`; `.img` for rarer formats.

        Raises:
            UserError: as `media_type`.
        """
        return _SUFFIXES.get(self.media_type, ".img")

    @property
    def data_uri(self) -> str:
        """The form in which it travels inside a chat message."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"

    @property
    def portable(self) -> "Attachment":
        """Itself, or of an AVIF or HEIC, which few servers read, a JPEG without its metadata.

        Raises:
            UserError: as `media_type`; of those two as `decode`.
        """
        if self.media_type not in ISOLATED.values():
            return self
        return Attachment.from_photo(self.decode(), self.name, self.limits)

    def decode(self, side: int | None = None) -> Image.Image:
        """The upright RGB picture, see `load_image_bytes`."""
        return load_image_bytes(self.content, self.name, self.limits, side, isolated=self.isolated)

    @cached_property
    def hashes(self) -> frozenset[str]:
        """`bytes:...` and `pixels:...` hashes. Two files that share one show the same picture.

        They survive saving the picture again without loss or without its metadata: pixels are hashed as they are
        stored, as EXIF turns them, and as `decode` shows them. Files that were scaled, cropped or compressed anew with
        loss share none.

        Raises:
            UserError: as `decode`.
        """
        of_pixels = pixel_hashes(self.content, self.name, self.limits, isolated=self.isolated)
        return frozenset({f"bytes:{self.sha256}", *of_pixels})


ImageInput = str | Path | bytes | Image.Image | Attachment
"""A path, a URL, the bytes of an image file, a decoded image, or an attachment."""


def image_url(given: ImageInput) -> str:
    """The URL to put into a chat message: a data URI, or the given http(s) URL, which is the server's to fetch or not.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        return given
    return Attachment.of(given).portable.data_uri


def decode_data_uri(uri: str, name: str = "the image", limits: ImageLimits = LIMITS) -> bytes:
    """The bytes of a `data:image/...;base64,...` URI.

    Args:
        uri: The whole URI. Spaces and line breaks inside the base64 are allowed.
        name: What error messages call it.
        limits: Caps; the encoded length is checked before decoding.

    Returns:
        The encoded image, not looked into yet.

    Raises:
        UserError: Not a base64 data URI of an image, malformed base64, or too long.
    """
    head, comma, payload = uri.partition(",")
    scheme, _, media_type = head[:200].partition(":")
    kind, *parameters = [part.strip().lower() for part in media_type.split(";")]
    if scheme.strip().lower() != "data" or not comma or "base64" not in parameters:
        raise UserError(f"{name} must be a data URI of the form data:image/png;base64,...")
    if kind == "application/pdf":
        raise UserError(f"{name} is a PDF; send the page that is asked about as a picture")
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise UserError(f"{name} is a data URI of {printable(kind)}; send image/png, image/jpeg or another image type")
    if len(payload) > limits.bytes * 4 // 3 + 2**16:  # the slack is for line breaks
        raise UserError(limits.too_many_bytes(name, len(payload) * 3 // 4))
    try:
        data = base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{name} is not valid base64; encode the bytes of the file with standard base64") from None
    if not data:
        raise UserError(f"{name} is empty; send an image file")
    return data


def load_image_file(path: str | Path) -> Image.Image:
    """The upright RGB picture of a file, see `Attachment.from_path` and `load_image_bytes`."""
    return Attachment.from_path(path).decode()


def _read_file(path: Path, limits: ImageLimits, name: str | None) -> bytes:
    name = printable(name or str(path))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{name} is a directory; name an image file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could hang or never end
            raise UserError(f"{name} is not a regular file; name an image file")
        if status.st_size > limits.bytes:
            raise UserError(limits.too_many_bytes(name, status.st_size))
        with path.open("rb") as file:
            return file.read(limits.bytes + 1)  # it may have grown since
    except FileNotFoundError:
        raise UserError(f"{name} does not exist; check the path of the image") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{name} cannot be read ({printable(reason)}); check the path and its permissions") from None
