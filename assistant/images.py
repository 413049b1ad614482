"""An image, and the one door through which bytes become pixels: for the command, the server, the page and the stores.

Whatever comes in, what comes out is an upright 8-bit RGB picture of bounded size, or a `UserError` in one line. Sizes
are read from the header and checked before anything is decoded, because a few kilobytes can claim gigabytes of pixels.
"""

import base64
import binascii
import hashlib
import io
import re
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from fourfold.prompts.errors import UserError

_Found = TypeVar("_Found")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow decoders that are tried; everything else that Pillow knows (EPS, PDF, FITS, ...) stays shut."""
_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/gif": ".gif"}

# Pillow warns about large pictures and broken metadata: the caps here are lower, and metadata is not needed.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

MAX_JPEG_SCANS = 200
"""A progressive JPEG of ordinary tools has about ten scans; each one costs a pass over the whole picture."""

_SPARE = 2
"""How many times the model's square a JPEG decoded in part still is, both ways: shrunk from there, a 12-megapixel photo
differs by 0.2 to 0.3 of 255 on average from one decoded in full, and by 5 at most."""


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost.

    Attributes:
        bytes: Largest encoded size.
        pixels: Largest width x height; 50 million is about what phone cameras make, and takes 150 MB decoded.
        side: Longest side in pixels. A strip 50 million pixels long passes the pixel cap, but resizing it takes
            gigabytes of filter weights.
    """

    bytes: int = 20 * 2**20
    pixels: int = 50_000_000
    side: int = 30_000


LIMITS = ImageLimits()


@dataclass(frozen=True)
class Attachment:
    """An encoded image file in memory: what is stored, hashed, sent and decoded.

    Attributes:
        content: the file, within `limits.bytes`; not looked into until something asks.
        name: what error messages call it.
        limits: of decoding.
    """

    content: bytes = field(repr=False)
    name: str = "the image"
    limits: ImageLimits = LIMITS

    def __post_init__(self) -> None:
        if not self.content:
            raise UserError(f"{_printable(self.name)} is empty; send an image file")
        if len(self.content) > self.limits.bytes:
            raise UserError(_too_many_bytes(_printable(self.name), len(self.content), self.limits))

    @classmethod
    def from_path(cls, path: str | Path, name: str | None = None, limits: ImageLimits = LIMITS) -> "Attachment":
        """Read a file that the caller chose; never pass a path that came over the network.

        Raises:
            UserError: it is missing, no regular file, unreadable or too large.
        """
        return cls(_read_file(Path(path), limits, name), name or str(path), limits)

    @classmethod
    def from_data_uri(cls, uri: str, name: str = "the image", limits: ImageLimits = LIMITS) -> "Attachment":
        """The image of a `data:image/...;base64,...` URI; its encoded length is checked before decoding.

        Raises:
            UserError: it is none, malformed, or too long.
        """
        return cls(decode_data_uri(uri, name, limits), name, limits)

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
        try:
            with Image.open(io.BytesIO(self.content), formats=FORMATS) as image:
                return image.get_format_mimetype() or "application/octet-stream"
        except Exception:  # headers of damaged files raise almost anything
            raise UserError(_unknown_format(self.content, _printable(self.name))) from None

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

    def decode(self, side: int | None = None) -> Image.Image:
        """The upright RGB picture, see `load_image_bytes`."""
        return load_image_bytes(self.content, self.name, self.limits, side)

    @cached_property
    def hashes(self) -> frozenset[str]:
        """`bytes:...` and `pixels:...` hashes. Two files that share one show the same picture.

        They survive saving the picture again without loss or without its metadata: pixels are hashed as they are
        stored, as EXIF turns them, and as `decode` shows them. Files that were scaled, cropped or compressed anew with
        loss share none.

        Raises:
            UserError: as `decode`.
        """
        name = _printable(self.name)

        def hashed(image: Image.Image) -> set[str]:
            image.load()
            found, shown = {pixel_hash(image)}, image
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                shown = _upright(image)
                found.add(pixel_hash(shown))
            if image.mode != "RGB":
                found.add(pixel_hash(_to_rgb(shown, name)))
            return found

        return frozenset({f"bytes:{self.sha256}", *_open(self.content, name, self.limits, hashed)})


ImageInput = str | Path | bytes | Image.Image | Attachment
"""A path, a URL, the bytes of an image file, a decoded image, or an attachment."""


def image_url(given: ImageInput) -> str:
    """The URL to put into a chat message: a data URI, or the given http(s) URL, which is the server's to fetch or not.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        return given
    return Attachment.of(given).data_uri


def pixel_hash(image: Image.Image) -> str:
    """`pixels:...`, the same for equal pictures whatever file they come from."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.convert("RGBA").tobytes())
    return f"pixels:{digest.hexdigest()}"


def load_image_file(path: str | Path) -> Image.Image:
    """The upright RGB picture of a file, see `Attachment.from_path` and `load_image_bytes`."""
    return Attachment.from_path(path).decode()


def _read_file(path: Path, limits: ImageLimits, name: str | None) -> bytes:
    name = _printable(name or str(path))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{name} is a directory; name an image file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could hang or never end
            raise UserError(f"{name} is not a regular file; name an image file")
        if status.st_size > limits.bytes:
            raise UserError(_too_many_bytes(name, status.st_size, limits))
        with path.open("rb") as file:
            return file.read(limits.bytes + 1)  # it may have grown since
    except FileNotFoundError:
        raise UserError(f"{name} does not exist; check the path of the image") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{name} cannot be read ({_printable(reason)}); check the path and its permissions") from None


def load_image_bytes(
    data: bytes, name: str = "the image", limits: ImageLimits = LIMITS, side: int | None = None
) -> Image.Image:
    """Decode an image from memory.

    Transparency is composited on white; 16-bit grey is scaled to 8 bits; CMYK becomes RGB; an animation gives its first
    frame; EXIF orientation is applied.

    Args:
        data: The encoded file: PNG, JPEG, WebP, GIF, BMP or TIFF.
        name: What error messages call it.
        limits: Caps on size, checked before decoding.
        side: Pixels a side of the square that a model will make of it, where that is all it is for: a JPEG that is
            much larger is then decoded at a half, a quarter or an eighth of its size, in a fraction of the time.

    Returns:
        An upright RGB image; `info["pixels"]` says how many it had in the file.

    Raises:
        UserError: Empty, too large, of an unknown format, or damaged.
    """
    name = _printable(name)

    def upright(image: Image.Image) -> Image.Image:
        pixels = image.width * image.height
        if side is not None:
            image.draft(None, (side * _SPARE, side * _SPARE))
        image.load()
        rgb = _to_rgb(_upright(image), name)
        rgb.info = {"pixels": pixels}  # place and camera of the photographer stay behind
        return rgb

    return _open(data, name, limits, upright)


def _open(data: bytes, name: str, limits: ImageLimits, decode: Callable[[Image.Image], _Found]) -> _Found:
    """What `decode` makes of the opened file, whose header has been checked; whatever fails is a `UserError`."""
    if not data:
        raise UserError(f"{name} is empty; send an image file")
    if len(data) > limits.bytes:
        raise UserError(_too_many_bytes(name, len(data), limits))
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, data, name, limits)
            return decode(image)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(_too_many_pixels(name, None, limits)) from None
    except Image.UnidentifiedImageError:
        raise UserError(_unknown_format(data, name)) from None
    except Exception as error:  # decoders of damaged files raise almost anything: SyntaxError, struct.error, IndexError
        reason = _printable(str(error)) or type(error).__name__
        raise UserError(f"{name} is damaged or cut short ({reason}); save or send it again") from None


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
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise UserError(f"{name} is a data URI of {_printable(kind)}; send image/png, image/jpeg or another image type")
    if len(payload) > limits.bytes * 4 // 3 + 2**16:  # the slack is for line breaks
        raise UserError(_too_many_bytes(name, len(payload) * 3 // 4, limits))
    try:
        data = base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{name} is not valid base64; encode the bytes of the file with standard base64") from None
    if not data:
        raise UserError(f"{name} is empty; send an image file")
    return data


def _check_header(image: Image.Image, data: bytes, name: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.pixels or max(width, height) > limits.side:
        raise UserError(_too_many_pixels(name, image.size, limits))
    # 0xFF inside entropy-coded data is always followed by 0x00, so this counts scan headers (and those of thumbnails).
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise UserError(f"{name} is a JPEG with more than {MAX_JPEG_SCANS} scans; save it as an ordinary JPEG or PNG")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture with broken EXIF is still a picture
        return image.copy()


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image, name)
    if image.mode == "F":
        raise UserError(f"{name} has floating-point pixels, whose range is unknown; save it with 8 bits a channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image, name: str) -> Image.Image:
    """Pillow's own conversion clips at 255, which turns a 16-bit scan white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{name} has 32-bit pixels, whose range is unknown; save it with 8 bits a channel")
    scaled = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _too_many_bytes(name: str, size: int, limits: ImageLimits) -> str:
    return f"{name} has {size / 2**20:.1f} MiB, the limit is {limits.bytes / 2**20:g} MiB; make it smaller"


def _too_many_pixels(name: str, size: tuple[int, int] | None, limits: ImageLimits) -> str:
    has = f"is {size[0]} x {size[1]} pixels" if size else "has far more pixels than allowed"
    return f"{name} {has}; the limits are {limits.pixels:,} pixels and {limits.side:,} a side; make it smaller"


def _unknown_format(data: bytes, name: str) -> str:
    allowed = "PNG, JPEG, WebP, GIF, BMP or TIFF"
    if re.match(rb"\s*(<\?xml|<!--|<!doctype svg|<svg)", data[:200].lstrip(b"\xef\xbb\xbf"), re.IGNORECASE):
        return f"{name} is SVG or XML, which is drawing instructions and not pixels; render it to {allowed}"
    if data[4:8] == b"ftyp":
        return f"{name} is HEIC, AVIF or a video; convert it to {allowed}"
    return f"{name} is not an image that can be read; send {allowed}"


def _printable(text: str, limit: int = 200) -> str:
    """One line without control characters: names come from strangers and end up in logs and terminals."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
