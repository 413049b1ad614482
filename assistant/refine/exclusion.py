"""Images of benchmarks, from which nothing may be learnt: gathered from folders into a store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fourfold.assistant.images import Attachment
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError

_AT_ONCE = 500  # images a transaction: an interrupt loses no more


@dataclass(frozen=True)
class Excluded:
    """How many images were not excluded before, how many were, and which files with an image's name are none."""

    new: int
    known: int
    unreadable: tuple[str, ...]


def card_photos() -> list[Path]:
    """The held-out photos, on which the model's own card is measured; UserError where they are not on this machine."""
    from fourfold.assistant.training.data.photos import read_photos
    from fourfold.assistant.training.data.sample import photos_directory

    directory = photos_directory()
    return [directory / photo.path for photo in read_photos(directory) if photo.held_out]


def exclude_files(
    store: CorrectionStore, files: Sequence[Path], source: str, on_progress: OnProgress | None = None
) -> Excluded:
    """Keep the hashes of image files in a store, which from then on refuses corrections on them.

    A file is known again by its bytes, and by its pixels when it was saved anew without loss or without its metadata.
    Scaled, cropped or otherwise changed copies are not recognised.

    Args:
        store: refuses them.
        files: of a benchmark.
        source: its name, for messages.
        on_progress: told how far it is; None for nobody.
    """
    new, unreadable = 0, []
    for start in range(0, len(files), _AT_ONCE):
        hashes = []
        for file in files[start : start + _AT_ONCE]:
            try:
                hashes.append(Attachment.from_path(file).hashes)
            except UserError:
                unreadable.append(str(file))
        new += store.exclude(hashes, source)
        if on_progress:
            on_progress(Progress(f"reading {source}", min(start + _AT_ONCE, len(files)), len(files)))
    return Excluded(new, len(files) - new - len(unreadable), tuple(unreadable))
