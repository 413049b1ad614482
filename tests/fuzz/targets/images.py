"""Files that are sent or opened as pictures, and pages of PDFs."""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from fourfold.assistant.images import Attachment, ImageLimits
from fourfold.prompts.errors import UserError
from tests.assistant.images.test_isolated import HEIC
from tests.assistant.pictures import encode, scene
from tests.fuzz.mutation import Mutator, png_checksums
from tests.fuzz.target import Target

_SMALL = ImageLimits(bytes=2**20, pixels=4_000_000, side=20_000)
_MODEL = 224


def pictures(directory: Path) -> Target:
    """What is decoded by Pillow: PNG, JPEG, GIF, WebP, BMP and TIFF."""
    return Target(list(_pictures()), look, _mutate, 2**15)


def isolated(directory: Path) -> Target:
    """What gets a process of its own: AVIF, HEIC, PDF; a tenth of a second each."""
    photo = scene(64, 48)
    seeds = [HEIC, encode(photo, "AVIF"), encode(photo.convert("RGBA"), "AVIF"), encode(photo, "PDF"), _drawn_pdf()]
    return Target(seeds, look, Mutator.bytes, 2**15)


def look(data: bytes) -> None:
    """All that is asked of a picture: what it is, its pixels for a model and as they are, and its hashes."""
    # One input in sixteen within the limits that people get.
    caps = {} if zlib.crc32(data) % 16 == 0 else {"limits": _SMALL}
    if not data:
        return
    attachment = Attachment.from_pdf(data, 1, **caps) if b"%PDF-" in data[:1024] else Attachment(data, **caps)
    refused = None
    for ask in (lambda: attachment.media_type, lambda: attachment.decode(_MODEL), lambda: attachment.hashes):
        try:
            ask()
        except UserError as error:
            refused = refused or error
    if refused:
        raise refused


def _mutate(mutator: Mutator, data: bytes) -> bytes:
    changed = mutator.flips(data) if mutator.random.random() < 0.5 else mutator.bytes(data)
    return png_checksums(changed) if mutator.random.random() < 0.7 else changed


def _pictures() -> Iterator[bytes]:
    photo = scene(40, 28)
    exif = Image.Exif()
    exif[274], exif[270] = 6, "turned"
    turned = exif.tobytes()
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        yield encode(photo.convert("L").convert(mode) if mode == "I;16" else photo.convert(mode), "PNG")
    yield encode(photo, "PNG", exif=turned)
    yield encode(photo, "PNG", save_all=True, append_images=[photo.rotate(90)])
    for options in ({}, {"progressive": True}, {"quality": 20, "subsampling": 0}, {"exif": turned}):
        yield encode(photo, "JPEG", **options)
    for mode in ("L", "CMYK"):
        yield encode(photo.convert(mode), "JPEG")
    yield encode(photo, "JPEG")[:-2]
    yield encode(photo, "MPO", save_all=True, append_images=[photo])
    for options in ({}, {"lossless": True}, {"exif": turned}, {"save_all": True, "append_images": [photo.rotate(90)]}):
        yield encode(photo.convert("RGBA") if options else photo, "WEBP", **options)
    palette = photo.convert("P")
    yield encode(palette, "GIF")
    yield encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)], transparency=0, interlace=1)
    for mode in ("RGB", "P", "1", "RGBA"):
        yield encode(photo.convert(mode), "BMP")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_ccitt"):
        yield encode(photo.convert("1") if "ccitt" in compression else photo, "TIFF", compression=compression)
    for mode in ("I;16", "F", "CMYK", "LA"):
        yield encode(photo.convert("L").convert(mode), "TIFF")


def _drawn_pdf() -> bytes:
    """A page with words and lines, not one picture."""
    words = Image.new("RGB", (60, 40), "white")
    ImageDraw.Draw(words).text((2, 2), "Fourfold", fill="black")
    buffer = io.BytesIO()
    words.save(buffer, "PDF", title="a page", author="nobody", save_all=True, append_images=[words])
    content = b"q 1 0 0 1 5 5 cm 0 0 m 20 30 l 40 0 l h S Q BT /F1 12 Tf 3 3 Td (words) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 60 40] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = bytearray(b"%PDF-1.4\n")
    for number, body in enumerate(objects, 1):
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    return bytes(out + b"trailer << /Root 1 0 R /Size 6 >>\n%%EOF\n")
