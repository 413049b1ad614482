"""Finding a benchmark's images in the user's folder, whatever the files are called there."""

import base64
import io
import mimetypes
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from fourfold.prompts.errors import UserError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
_COCO = re.compile(r"^(?:COCO_[a-z]+\d{4}_)?0*(\d+)$")


class ImageFolder:
    """The images under a folder, by name.

    An image is found by its relative path, its file name, its name without suffix, or, for COCO, by its number:
    `COCO_val2014_000000297147`, `000000297147.jpg` and the id 297147 are one image.

    Raises:
        UserError: there is no such folder, or no image in it.
    """

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise UserError(f"no image folder at {directory}")
        self.directory = directory
        self._by_name: dict[str, Path] = {}
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() in _SUFFIXES:
                relative = path.relative_to(directory)
                names = [str(relative), str(relative.with_suffix("")), path.name, path.stem]
                # IconQA keeps every image as ID/image.png.
                names += [path.parent.name] if path.stem == "image" else []
                for name in (*names, _number(path.stem)):
                    if name:
                        self._by_name.setdefault(name, path)
        if not self._by_name:
            raise UserError(f"no image (jpg, png, webp, gif, bmp) under {directory}")

    def find(self, name: str) -> Path | None:
        """The file of an image, or None."""
        path = Path(name)
        keys = (name, path.name, path.stem, _number(path.stem if path.suffix.lower() in _SUFFIXES else path.name))
        return next((self._by_name[key] for key in keys if key and key in self._by_name), None)

    def missing(self, names: Iterable[str]) -> list[str]:
        """The names that have no file, each once."""
        return [name for name in dict.fromkeys(names) if self.find(name) is None]


def _number(stem: str) -> str | None:
    match = _COCO.match(stem)
    return f"number {match.group(1)}" if match else None


def data_uri(path: Path, edit: Callable[[Image.Image], Image.Image] | None = None) -> str:
    """The file's bytes as a data URI, unchanged; an edited image as PNG."""
    if edit is None:
        kind, content = mimetypes.guess_type(path.name)[0] or "image/jpeg", path.read_bytes()
    else:
        from fourfold.assistant.images import load_image_file

        buffer = io.BytesIO()
        edit(load_image_file(path)).save(buffer, "PNG")
        kind, content = "image/png", buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
