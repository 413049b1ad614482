"""Which files are pictures here, by their first bytes and by their names."""

import re
from pathlib import Path

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow decoders that are tried; everything else that Pillow knows (EPS, PDF, FITS, ...) stays shut."""

ISOLATED = {"AVIF": "image/avif", "HEIF": "image/heic"}
"""Formats that are decoded in a process of their own, with the media type of each: `isolated` says why."""

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
"""Endings of picture files, in small letters; what a file really is its bytes say."""

PDF = ".pdf"
ALLOWED = "PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP or TIFF"

_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_AVIF = frozenset([b"avif", b"avis"])
_HEIF = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"])
_PAGE = re.compile(r"(?i)(.+\.pdf)#([0-9]{1,6})")


def isolated_format(data: bytes) -> str | None:
    """Which of `ISOLATED` it is, by the brands of its first box; None for all others."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))}
    if brands & _AVIF:
        return "AVIF"
    return "HEIF" if brands & _HEIF else None


def is_pdf(data: bytes) -> bool:
    """Whether it is a PDF; readers look for its mark in the first KiB."""
    return b"%PDF-" in data[:1024]


def split_page(name: str | Path) -> tuple[str, int | None]:
    """`report.pdf#3` as file and page, counted from 1; other names as they are."""
    text = str(name)
    match = _PAGE.fullmatch(text)
    if match is None or Path(text).exists():
        return text, None
    return match[1], int(match[2])


def unknown_format(data: bytes, name: str) -> str:
    """What to say of a file that no decoder takes."""
    if re.match(rb"\s*(<\?xml|<!--|<!doctype svg|<svg)", data[:200].lstrip(b"\xef\xbb\xbf"), re.IGNORECASE):
        return f"{name} is SVG or XML, which is drawing instructions and not pixels; render it to {ALLOWED}"
    if data[4:8] == b"ftyp":
        return f"{name} is a video; send a frame of it as {ALLOWED}"
    if is_pdf(data):
        return f"{name} is a PDF; send a page of it as a picture (a file is named with its page: report.pdf#3)"
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return f"{name} is a damaged {kind} that cannot be read; save or send it again"
    return f"{name} is not an image that can be read; send {ALLOWED}"
