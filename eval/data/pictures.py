"""Images that stand in a table of questions, read when they are asked about, and where a run finds its images."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from fourfold.assistant.images import Attachment, load_image_bytes
from fourfold.eval.images import ImageFolder
from fourfold.eval.task import FileImage, ImageSource
from fourfold.prompts.errors import UserError


class Cells(Protocol):
    """A table file out of which the bytes of one image can be read."""

    path: Path

    def image_bytes(self, row: int, column: str, place: int) -> bytes: ...


@dataclass(frozen=True)
class StoredImage:
    """The image file in a cell of a table; `place` counts the images of a cell that holds several."""

    table: Cells
    row: int
    column: str
    place: int = 0

    @property
    def id(self) -> str:
        return f"{self.table.path}#{self.row}/{self.column}" + (f"/{self.place}" if self.place else "")

    key = id

    @property
    def content(self) -> bytes:
        """The file."""
        return self.table.image_bytes(self.row, self.column, self.place)

    def attachment(self) -> Attachment:
        """The bytes as they stand in the table."""
        return Attachment(self.content, self.id)

    def open(self) -> Image.Image:
        """UserError where the cell holds no image."""
        return load_image_bytes(self.content, self.id)


@dataclass(frozen=True)
class JoinedImage:
    """Several images of one question side by side, top edges level, as lmms-eval's `mmmu_group_img` shows them."""

    parts: tuple[StoredImage, ...]

    @property
    def id(self) -> str:
        return f"{self.parts[0].id} and {len(self.parts) - 1} more"

    key = id

    @property
    def content(self) -> bytes:
        """All files, one behind the other: what tells one such picture from another."""
        return b"".join(part.content for part in self.parts)

    def open(self) -> Image.Image:
        """One white canvas with all of them, each in its own size."""
        pictures = [part.open() for part in self.parts]
        canvas = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)), "white")
        left = 0
        for picture in pictures:
            canvas.paste(picture, (left, 0))
            left += picture.width
        return canvas


Picture = StoredImage | JoinedImage


def digest(picture: Picture) -> str:
    """A name for a picture that has none: sixteen hex digits of its bytes, so that one picture has one name."""
    return hashlib.blake2b(picture.content, digest_size=8).hexdigest()


class Pictures:
    """Where the images of a run are: in the table of its questions, else in a folder.

    Args:
        stored: image name -> the picture in the table; None for a question that has no image.
        folder: of image files; None where the table has all.
        coco: whether the folder's images are COCO's, as `ImageFolder` has it.
    """

    def __init__(self, stored: Mapping[str, Picture | None], folder: Path | None, *, coco: bool = False) -> None:
        self._stored = stored
        self._folder = ImageFolder(folder, coco=coco) if folder is not None else None

    def find(self, name: str) -> ImageSource | None:
        """The image of a name, or None."""
        if name in self._stored:
            return self._stored[name]
        path = self._folder.find(name) if self._folder is not None else None
        return FileImage(path) if path is not None else None

    def missing(self, names: Iterable[str], what: str, *, skip: bool) -> set[str]:
        """The names without a file, as `ImageFolder.missing`; those that need none are not among them.

        Raises:
            UserError: some are missing and may not be, or there is no folder to look in.
        """
        wanted = [name for name in names if name not in self._stored]
        if not wanted:
            return set()
        if self._folder is None:
            raise UserError(f"give --images DIR, the folder of the images: {what} names them, such as {wanted[0]}")
        return self._folder.missing(wanted, what, skip=skip)
