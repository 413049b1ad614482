"""Images of benchmarks, from which nothing may be learnt: gathered from folders into a store."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fourfold.assistant.refine.pictures import Picture, identify, read_image_file
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_AT_ONCE = 500  # images a transaction: an interrupt loses no more


@dataclass(frozen=True)
class Excluded:
    """What `exclude_files` did.

    Attributes:
        new: images that were not excluded before.
        known: images that were.
        unreadable: files with an image's name that are none.
    """

    new: int
    known: int
    unreadable: tuple[str, ...]


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths` and, by their suffix, in the folders among them and below.

    Raises:
        UserError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
            if not inside:
                raise UserError(f"there are no images in {path}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist; name image files or folders of images")
    return found


def card_photos() -> list[Path]:
    """The held-out photos, on which the model's own card is measured.

    Raises:
        UserError: the photos are not on this machine.
    """
    from fourfold.assistant.training.data.photos import read_photos
    from fourfold.assistant.training.data.sample import photos_directory

    directory = photos_directory()
    return [directory / photo.path for photo in read_photos(directory) if photo.held_out]


def exclude_files(
    store: CorrectionStore, files: Sequence[Path], source: str, on_progress: Callable[[int], None] | None = None
) -> Excluded:
    """Keep the hashes of image files in a store, which from then on refuses corrections on them.

    A file is known again by its bytes, and by its pixels when it was saved anew without loss or without its metadata.
    Scaled, cropped or otherwise changed copies are not recognised.

    Args:
        store: refuses them.
        files: of a benchmark.
        source: its name, for messages.
        on_progress: told how many files are done.
    """
    new, unreadable, done = 0, [], 0

    def pictures() -> Iterator[Picture]:
        nonlocal done
        for file in files:
            done += 1
            try:
                yield identify(read_image_file(file), str(file))
            except UserError:
                unreadable.append(str(file))

    remaining = pictures()
    while part := list(itertools.islice(remaining, _AT_ONCE)):
        new += store.exclude(part, source)
        if on_progress:
            on_progress(done)
    return Excluded(new, len(files) - new - len(unreadable), tuple(unreadable))
