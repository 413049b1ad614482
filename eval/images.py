"""Finding a benchmark's images in the user's folder, under the names that the benchmark has for them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from fourfold.assistant.image_files import files_below
from fourfold.assistant.images import SUFFIXES
from fourfold.prompts.errors import UserError

_COCO = re.compile(r"^(?:COCO_[a-z]+\d{4}_)?(\d{12})$")


class ImageFolder:
    """The images under a folder, by name; links to folders are followed.

    An image is found by its path, or as much of it as both sides know: `val2014/a.jpg` is `a.jpg` where the folder is
    `val2014` itself. A name without suffix stands for any. Where the benchmark's images are COCO's (`coco`), they also
    have their number: `COCO_val2014_000000297147`, `000000297147.jpg` and the id 297147 are one image.

    Raises:
        UserError: there is no such folder, or no image in it.
    """

    def __init__(self, directory: Path, *, coco: bool = False) -> None:
        if not directory.is_dir():
            raise UserError(f"no image folder at {directory}")
        self.directory, self._coco = directory, coco
        self._by_name: dict[str, list[PurePath]] = defaultdict(list)
        self._by_stem: dict[str, list[PurePath]] = defaultdict(list)
        self._by_number: dict[int, list[PurePath]] = defaultdict(list)
        for path in sorted(files_below(directory)):
            if path.suffix.lower() not in SUFFIXES:
                continue
            self._by_name[_plain(path.name)].append(path)
            self._by_stem[path.stem].append(path)
            if path.stem == "image":  # IconQA keeps every image as ID/image.png
                self._by_stem[path.parent.name].append(path)
            if coco and (match := _COCO.match(path.stem)):
                self._by_number[int(match[1])].append(path)
        if not self._by_name:
            raise UserError(f"no image ({', '.join(sorted(SUFFIXES))}) under {directory}")

    def find(self, name: str) -> Path | None:
        """The file of an image, or None.

        Raises:
            UserError: several pictures have this name.
        """
        path = PurePath(name)
        suffixed = path.suffix.lower() in SUFFIXES
        found = self._by_name.get(_plain(path.name), []) if suffixed else self._by_stem.get(path.name, [])
        found = [file for file in found if _agree(file.parent.parts, path.parent.parts) or file.parent.name == name]
        if not found and self._coco and (number := _number(path.stem if suffixed else path.name)) is not None:
            found = self._by_number.get(number, [])
        exact = [file for file in found if file == path or (not suffixed and file.with_suffix("") == path)]
        return self._only(exact or found, name)

    def _only(self, found: Sequence[PurePath], name: str) -> Path | None:
        files = [self.directory / path for path in found]
        for other in files[1:]:
            if files[0].stat().st_size != other.stat().st_size or files[0].read_bytes() != other.read_bytes():
                raise UserError(
                    f"two pictures are called {name}: {found[0]} and {other.relative_to(self.directory)} under "
                    f"{self.directory}; give the folder of one of them"
                )
        return files[0] if files else None

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


def _agree(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two folders may be the same: one of them ends with the other."""
    short = min(len(one), len(other))
    return short == 0 or tuple(one[-short:]) == tuple(other[-short:])


def _plain(name: str) -> str:
    """A file name with its suffix in one spelling."""
    path = PurePath(name)
    suffix = path.suffix.lower()
    return path.stem + {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def _number(name: str) -> int | None:
    """The number of a COCO name, or an image id."""
    match = _COCO.match(name)
    if match:
        return int(match[1])
    return int(name) if name.isascii() and name.isdigit() else None
