"""Images as data URIs, the form in which they travel inside a chat message."""

import base64
import binascii
import io
from pathlib import Path

from PIL import Image

from fourfold.prompts.errors import UserError

ImageInput = str | Path | bytes | Image.Image
"""A path, a URL, the bytes of an image file, or a decoded image."""


def to_data_uri(image: ImageInput) -> str:
    """The URL to put into a chat message.

    Files and bytes travel as they are, a decoded image as PNG. A string that starts with `data:`, `http://` or
    `https://` is returned untouched: whether a remote URL is fetched is the server's decision.

    Raises:
        UserError: there is no such file, or it is not an image.
    """
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return _encode(buffer.getvalue(), "image/png")
    if isinstance(image, str) and image.startswith(("data:", "http://", "https://")):
        return image
    name = "the image" if isinstance(image, bytes) else str(image)
    try:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); name an image file") from None
    return _encode(data, media_type(data, name))


def from_data_uri(uri: str) -> bytes:
    """The bytes inside a base64 data URI.

    Raises:
        UserError: it is none.
    """
    head, comma, payload = uri.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise UserError("an image in a message must be a data URI of the form data:image/png;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("an image in a message is not valid base64") from None


def media_type(data: bytes, name: str = "the image") -> str:
    """The media type of an image file, `image/png`, read from its header without decoding it.

    Raises:
        UserError: it is not an image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.get_format_mimetype() or "application/octet-stream"
    except Exception:  # headers of damaged files raise almost anything
        raise UserError(f"{name} is not an image; use PNG, JPEG, WebP, GIF, BMP or TIFF") from None


def _encode(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
