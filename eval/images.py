"""Finding a benchmark's images in the user's folder, whatever the files are called there."""

import re
from collections.abc import Iterable
from pathlib import Path

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

    def missing(self, names: Iterable[str], what: str, *, skip: bool) -> set[str]:
        """The names that have no file.

        Args:
            names: of images.
            what: names them in errors.
            skip: whether images may be missing.

        Raises:
            UserError: some are and may not be, or all are.
        """
        names = set(names)
        missing = {name for name in names if self.find(name) is None}
        if missing and not skip:
            examples = ", ".join(sorted(missing)[:3])
            raise UserError(
                f"{len(missing)} images of {what} are not under {self.directory}, such as {examples}; "
                "--skip-missing-images leaves their questions out"
            )
        if missing == names:
            raise UserError(f"not one image of {what} is under {self.directory}")
        return missing


def _number(stem: str) -> str | None:
    match = _COCO.match(stem)
    return f"number {match.group(1)}" if match else None
