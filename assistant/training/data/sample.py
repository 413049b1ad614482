"""What one training or held-out item is: images, of which there may be none, and the turns of talk about them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from fourfold.assistant.grounding import Box
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

if TYPE_CHECKING:
    from fourfold.assistant.training.data.scenes import Scene


def photos_directory() -> Path:
    """Where the photos for teaching lie: `$FOURFOLD_DATA/photos`, or `../shared/data/photos` beside the repository.

    Raises:
        UserError: there is no such directory.
    """
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    directory = Path(os.environ.get("FOURFOLD_DATA", default)) / "photos"
    if not directory.is_dir():
        raise UserError(f"there are no photos in {directory}; set FOURFOLD_DATA to the folder that holds photos/")
    return directory


_ALL = Box(0, 0, 1, 1)


@dataclass(frozen=True)
class View:
    """A part of an image, possibly mirrored: what an augmented image shows."""

    crop: Box = _ALL  # the part that is kept, in 0..1 of the whole image
    flip: bool = False  # mirrored left to right after the crop

    def box(self, box: Box, least: float = 0.6) -> Box | None:
        """Where `box` lies in this view, or None where less than `least` of its area is in it."""
        crop = self.crop
        width, height = crop.x2 - crop.x1, crop.y2 - crop.y1
        x1, x2 = (min(max((x - crop.x1) / width, 0.0), 1.0) for x in (box.x1, box.x2))
        y1, y2 = (min(max((y - crop.y1) / height, 0.0), 1.0) for y in (box.y1, box.y2))
        if (x2 - x1) * width * (y2 - y1) * height < least * box.area:
            return None
        return Box(1 - x2, y1, 1 - x1, y2) if self.flip else Box(x1, y1, x2, y2)

    def image(self, image: Image.Image) -> Image.Image:
        """The pixels of this view; the crop is rounded to whole pixels."""
        if self.crop != _ALL:
            x1, y1, x2, y2 = (round(side) for side in self.crop.to_pixels(image.width, image.height))
            image = image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
        return ImageOps.mirror(image) if self.flip else image


WHOLE = View()
MOST_IMAGES = 2  # in one sample


@dataclass(frozen=True)
class ImageRef:
    """An image by reference: a photo's path or a scene's description, from which the pixels follow."""

    id: str  # the same for every view of one photo; results are clustered by it
    path: str | None = None  # of a photo, relative to the photos directory
    scene: "Scene | None" = None  # of a rendered image
    view: View = WHOLE  # what of a photo is shown

    @property
    def key(self) -> str:
        """One string for one set of pixels."""
        crop = ",".join(f"{side:.4f}" for side in self.view.crop.as_tuple())
        return self.id if self.view == WHOLE else f"{self.id}@{crop}{'f' if self.view.flip else ''}"

    def open(self) -> Image.Image:
        """The pixels, RGB."""
        if self.scene is not None:
            return self.scene.render()
        if self.path is None:
            raise ValueError(f"image {self.id} has neither a path nor a scene")
        with Image.open(photos_directory() / self.path) as image:
            return self.view.image(image.convert("RGB"))


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and what is known about them."""

    task: Task  # one of the six
    question: str  # as the model reads it, with the task's tag
    answer: str  # as the model should write it
    boxes: tuple[Box, ...] = ()  # the boxes the answer (or, for identify, the question) speaks of
    # for scoring. `kind` is the sort of question within the task; the others by kind: `negative` and `object`
    # (existence), `references` (captions), `phrase` (refer), `names` (identify: all that count as right), `label`
    # (detection), `grounded` (grounding: pairs of phrase and boxes).
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    rejected: str | None = None  # a worse answer to the same question, from which a preference is learnt; None for none
    margin: float = 0.0  # how much likelier the model found `answer` than `rejected` before training, in nats
    # 0..1, how much of what is learnt are the model's own probabilities before training; the rest is `answer`, along
    # which they are taken
    kd_weight: float = 0.0
    # questions and answers that came before this turn alone; nothing is learnt from them
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Sample:
    """Images and turns about them; a held-out sample has one of either."""

    images: tuple[ImageRef, ...]  # what is looked at, at most `MOST_IMAGES`, all shown with the first question
    turns: tuple[Turn, ...]  # in the order of the conversation
    # the turns are one conversation, in which a later turn sees the earlier ones; otherwise each turn stands alone
    # with the images and they only share their tokens
    multi_turn: bool = False
    # questions and answers that came before; every turn sees them and nothing is learnt from them
    history: tuple[tuple[str, str], ...] = ()

    @property
    def image(self) -> ImageRef:
        """The image of a sample that has exactly one.

        Raises:
            ValueError: it has none or several.
        """
        (image,) = self.images
        return image
