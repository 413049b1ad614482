"""What picture a file holds, by hashes that survive saving it again without loss or without its metadata."""

import hashlib
import io
import stat
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from fourfold.prompts.errors import UserError

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Picture:
    """An image file by its hashes.

    Attributes:
        sha256: of its bytes.
        marks: `bytes:...` and `pixels:...` hashes. Two files that share one show the same picture; files that were
            scaled, cropped or compressed anew with loss share none.
    """

    sha256: str
    marks: frozenset[str]


def identify(data: bytes, name: str = "the image") -> Picture:
    """The hashes of an image file.

    Pixels are hashed as they are stored and as EXIF orientation turns them: a copy without metadata has the former.

    Raises:
        UserError: it is too large, or no image that can be decoded.
    """
    if len(data) > MAX_BYTES:
        raise UserError(_too_large(name, len(data)))
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name} has {image.width * image.height:,} pixels, the limit is {MAX_PIXELS:,}")
            stored = image.convert("RGBA")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{name} has far more pixels than {MAX_PIXELS:,}") from None
    except Exception as error:  # decoders of damaged files raise almost anything
        raise UserError(f"{name} is not an image that can be read ({type(error).__name__})") from None
    sha256 = hashlib.sha256(data).hexdigest()
    return Picture(sha256, frozenset({f"bytes:{sha256}", _pixels(stored), _pixels(upright)}))


def marks_of(image: Image.Image) -> frozenset[str]:
    """The marks of pixels that were decoded already: those of an upright picture."""
    return frozenset({_pixels(image.convert("RGBA"))})


def upright(data: bytes) -> Image.Image:
    """The picture of an image file that `identify` has read: RGB, turned as EXIF says."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def read_image_file(path: Path, name: str | None = None) -> bytes:
    """The bytes of an image file, looked at for size before they are read.

    Raises:
        UserError: it is missing, no regular file, or too large.
    """
    name = name or str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could hang or never end
            raise UserError(f"{name} is not a file")
        if status.st_size > MAX_BYTES:
            raise UserError(_too_large(name, status.st_size))
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL byte in the path
        raise error if isinstance(error, UserError) else UserError(f"{name!r} is not a path") from None


def _pixels(image: Image.Image) -> str:
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return f"pixels:{digest.hexdigest()}"


def _too_large(name: str, size: int) -> str:
    return f"{name} has {size / 2**20:.1f} MiB, the limit is {MAX_BYTES / 2**20:g} MiB"
