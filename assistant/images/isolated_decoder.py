"""The other process of `isolated`: a script that knows nothing of Fourfold, so that it starts quickly.

Its argument is a JSON object, its input the file. It prints a line of JSON, `{"images": [[mode, size, pixels], ...]}`
with the pixels of each behind it, or `{"error": ...}`, or `{"size": ...}` of a picture that is too large.
"""

import io
import json
import os
import sys
from typing import Any

_POINTS = 72  # of a PDF page, an inch
_SHARPEST = 300  # dots an inch; more than that no page is drawn with, however small it is


class _TooLargeError(Exception):
    """The size is its argument."""


def main() -> None:
    wish = json.loads(sys.argv[1])
    sys.path[:] = wish["path"]
    out = os.fdopen(os.dup(1), "wb")  # decoders that print do not get in between
    os.dup2(2, 1)
    _cap(wish)
    data = sys.stdin.buffer.read()
    told: dict[str, Any]
    images: list[Any] = []
    try:
        if wish["kind"] == "PDF":
            count, images = _pages(data, wish)
            told = {"count": count}
        else:
            images, told = [_picture(data, wish)], {}
        told["images"] = [[image.mode, image.size, image.info["pixels"]] for image in images]
    except _TooLargeError as error:
        told, images = {"size": error.args[0]}, []
    except ImportError as error:
        told, images = {"error": f"cannot be read here: install {error.name}"}, []
    except MemoryError:
        told, images = {"error": "takes too much memory to decode; save it as JPEG or PNG"}, []
    except Exception as error:  # decoders of damaged files raise almost anything
        told, images = {"error": f"is damaged or cut short{_reason(error)}; save or send it again"}, []
    out.write(json.dumps(told).encode() + b"\n")
    for image in images:
        for top in range(0, image.height, 256):
            out.write(image.crop((0, top, image.width, min(top + 256, image.height))).tobytes())
    out.flush()


def _reason(error: Exception) -> str:
    """What a decoder says, in brackets; "" where it names only an object, `<_io.BytesIO object at 0x...>`."""
    said = "".join(c for c in f"{error}".strip() if c.isprintable())[:120].rstrip(" .") or type(error).__name__
    return "" if " object at 0x" in said else f" ({said})"


def _cap(wish: dict[str, Any]) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    seconds = int(wish["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # others take it and do nothing, or too much
        resource.setrlimit(resource.RLIMIT_AS, (wish["memory"], wish["memory"]))


def _picture(data: bytes, wish: dict[str, Any]) -> Any:
    from PIL import AvifImagePlugin, Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # the caps are below
    if wish["kind"] == "HEIF":
        import pi_heif

        pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=2)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 2
    with Image.open(io.BytesIO(data), formats=[wish["kind"]]) as image:
        width, height = image.size
        if width * height > wish["pixels"] or max(width, height) > wish["side"]:
            raise _TooLargeError([width, height])
        image.load()
        if image.size != (width, height):
            raise ValueError("its header has another size")
        least = wish["least"]
        part = max(1, min(width, height) // least) if least else 1
        found: Any = image if image.mode in ("RGB", "RGBA") else image.convert("RGBA" if "A" in image.mode else "RGB")
        if part > 1:
            found = found.reduce(part)
            found.info["exif"] = image.info.get("exif", b"")
            found.getexif().update(image.getexif())
        upright = ImageOps.exif_transpose(found)
        upright.info = {"pixels": width * height}
        return upright


def _pages(data: bytes, wish: dict[str, Any]) -> tuple[int, list[Any]]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            raise ValueError("it is locked by a password") from None
        raise
    count, images = len(document), []
    for number in wish["pages"]:
        if number > count:
            continue
        page = document[number - 1]
        longest = max(*page.get_size(), 1e-3)
        scale = min(wish["longest"] / longest, _SHARPEST / _POINTS)
        image = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False).to_pil().convert("RGB")
        page.close()
        image.info = {"pixels": image.width * image.height}
        images.append(image)
    return count, images


if __name__ == "__main__":
    main()
