"""The other process of `isolated_process`: a script that decodes files, the dangerous ones in forks of its own.

Its argument is a JSON object: `path` to import from, `memory` that it may have. A file comes behind a JSON object that
says what is wanted of it and how many bytes it has, and four bytes with that object's length. What goes back is a line
of JSON: `{"images": [[mode, size, pixels], ...]}` with the pixels of each behind it, `{"hashes": [...]}`, `{"error":
...}` to be said behind the file's name, `{"refused": ...}` that has it, `{"size": ...}` of a picture that is too large,
or `{"died": ...}` with the signal that ended a fork. With `"last": true` the process takes no further file.
"""

import contextlib
import importlib
import io
import json
import mmap
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

_POINTS = 72  # of a PDF page, an inch
_SHARPEST = 300  # dots an inch; more than that no page is drawn with, however small it is
_GROWTH = 256 * 2**20  # bytes that a process may keep of the files it has decoded
# What a wish needs, imported before the fork so that the next one has it.
_NEEDED = {
    "picture": ["PIL.Image", "PIL.ImageOps", "PIL.AvifImagePlugin"],
    "pages": ["pypdfium2"],
    "load": ["fourfold.assistant.images.decoding"],
    "hashes": ["fourfold.assistant.images.decoding"],
    "warm": ["fourfold.assistant.images.decoding"],
}


class _TooLargeError(Exception):
    """The size is its argument."""


def main() -> None:
    started = json.loads(sys.argv[1])
    sys.path[:] = started["path"]
    given = io.FileIO(0, closefd=False)  # no buffer: what is not read is the fork's
    out = os.fdopen(os.dup(1), "wb")  # decoders that print do not get in between
    os.dup2(2, 1)
    _cap_all(started["memory"])
    at_first = 0
    while (length := int.from_bytes(_exactly(given, 4), "big")) and (wish := json.loads(_exactly(given, length))):
        _prepare(wish)
        at_first = at_first or _address_space()
        if wish["do"] in ("picture", "pages") and hasattr(os, "fork"):
            if not _in_a_fork(wish, given, out):
                return
            continue
        data = _exactly(given, wish["length"])
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, wish["seconds"])  # whose signal ends the process
        told, images = _answer(wish, data)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        del data
        # What one file has spoilt must not meet the next.
        told["last"] = wish["do"] in ("picture", "pages") or _address_space() - at_first > _GROWTH + _bytes(images)
        _write(out, told, images)
        if told["last"]:
            return
        del told, images


def _prepare(wish: dict[str, Any]) -> None:
    """Import what a wish needs, so that no fork has to."""
    for module in [*_NEEDED[wish["do"]], *(["pi_heif"] if wish.get("kind") == "HEIF" else [])]:
        if module not in sys.modules:
            with contextlib.suppress(ImportError):  # said where it is needed
                importlib.import_module(module)


def _address_space() -> int:
    """Bytes that this process has; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    except (OSError, ValueError):
        return 0


def _bytes(images: Sequence[Any]) -> int:
    return sum(4 * image.width * image.height for image in images)


def _in_a_fork(wish: dict[str, Any], given: io.FileIO, out: BinaryIO) -> bool:
    """Whether the pipes are where the next file may begin."""
    state = mmap.mmap(-1, 1)  # shared with the fork: 1 once it has read its file, 2 before it writes
    fork = os.fork()
    if fork == 0:
        try:
            _cap(wish)
            data = _exactly(given, wish["length"])
            state[0] = 1
            told, images = _answer(wish, data)
            state[0] = 2
            _write(out, told, images)
            os._exit(0)
        finally:  # what gets here has no way to say so
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    if code == 0:
        return True
    if state[0] != 1:
        return False
    _write(out, {"died": signal.Signals(-code).name if code < 0 else f"code {code}"})
    return True


def _exactly(given: io.FileIO, length: int) -> bytes:
    """So many bytes, or fewer where no more come."""
    blocks = []
    while length and (block := given.read(min(length, 2**20))):
        blocks.append(block)
        length -= len(block)
    return b"".join(blocks)


def _answer(wish: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Any]]:
    told: dict[str, Any]
    images: list[Any] = []
    try:
        told, images = _do(wish, data)
    except _TooLargeError as error:
        told = {"size": error.args[0]}
    except ImportError as error:
        told = {"error": f"cannot be read here: install {error.name}"}
    except MemoryError:
        told = {"error": "takes too much memory to decode; save it as JPEG or PNG"}
    except Exception as error:  # decoders of damaged files raise almost anything
        told = {"error": f"is damaged or cut short{_reason(error)}; save or send it again"}
    told["images"] = [[image.mode, image.size, image.info["pixels"]] for image in images]
    return told, images


def _write(out: BinaryIO, told: dict[str, Any], images: Sequence[Any] = ()) -> None:
    out.write(json.dumps(told).encode() + b"\n")
    for image in images:
        for top in range(0, image.height, 256):
            out.write(image.crop((0, top, image.width, min(top + 256, image.height))).tobytes())
    out.flush()


def _do(wish: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Any]]:
    if wish["do"] == "picture":
        return {}, [_picture(data, wish)]
    if wish["do"] == "warm":
        return {}, []
    if wish["do"] == "pages":
        count, images = _pages(data, wish)
        return {"count": count}, images
    from fourfold.assistant.images.decoding import load_image_bytes, pixel_hashes
    from fourfold.assistant.images.limits import ImageLimits
    from fourfold.prompts.errors import UserError

    limits = ImageLimits(wish["bytes"], wish["pixels"], wish["longest_side"])
    try:
        if wish["do"] == "load":
            return {}, [load_image_bytes(data, wish["name"], limits, wish["side"])]
        return {"hashes": sorted(pixel_hashes(data, wish["name"], limits))}, []
    except UserError as error:
        return {"refused": str(error)}, []


def _reason(error: Exception) -> str:
    """What a decoder says, in brackets; "" where it names only an object, `<_io.BytesIO object at 0x...>`."""
    said = "".join(c for c in f"{error}".strip() if c.isprintable())[:120].rstrip(" .") or type(error).__name__
    return "" if " object at 0x" in said else f" ({said})"


def _cap_all(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # there is nothing that it should write to
    if sys.platform == "linux":  # others take it and do nothing, or too much
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _cap(wish: dict[str, Any]) -> None:
    import resource

    seconds = int(wish["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if sys.platform == "linux":
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
        if width * height > wish["pixels"] or max(width, height) > wish["longest_side"]:
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
