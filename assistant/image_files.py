"""The image files that are meant where files and folders are named."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from fourfold.assistant.images import SUFFIXES, split_page
from fourfold.prompts.errors import UserError


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """The image files that are meant, each once: those named (a page of a PDF as `report.pdf#3`), and by their suffix
    those in named folders and below.

    Those of a folder come in the order of their names; links to folders are followed, and hidden files left out (other
    systems leave `._photo.jpg` beside `photo.jpg`).

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            names = (name for name in files_below(path) if name.suffix.lower() in SUFFIXES)
            inside = [path / name for name in sorted(names) if not any(part.startswith(".") for part in name.parts)]
            if not inside:
                raise UserError(f"there are no images in {path}; they may be {', '.join(sorted(SUFFIXES))}")
            found += inside
        elif Path(split_page(path)[0]).exists():
            found.append(path)
        else:
            raise UserError(f"no such file: {path}; name image files or folders of images")
    return list(dict.fromkeys(found))


def files_below(directory: Path) -> Iterator[PurePath]:
    """All files below, by their path from there; links are followed, and a folder linked into itself is walked once."""
    walked: set[str] = set()
    for folder, below, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        if real in walked:
            below.clear()
            continue
        walked.add(real)
        yield from (PurePath(folder, name).relative_to(directory) for name in names)
