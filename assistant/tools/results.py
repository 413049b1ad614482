"""What the tools give back: typed, and JSON that a language model can read."""

from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from fourfold.assistant.grounding import Box

Corners = Annotated[
    Box,
    BeforeValidator(lambda given: given if isinstance(given, Box) else Box(*given)),
    PlainSerializer(lambda box: [round(side, 4) for side in box.as_tuple()], return_type=list[float]),
    # Else the schema of what is taken in would be that of `Box`.
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}),
]
"""A box, as JSON `[x1, y1, x2, y2]` in 0..1 from the left and from the top."""

Chance = Annotated[float, PlainSerializer(lambda chance: round(chance, 3), return_type=float)]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)


class Detection(_Result):
    """One thing that the detector sees."""

    noun: str = Field(description="the word that was asked for, else the label")
    label: str = Field(description="the class of COCO that it was taken for")
    box: Corners
    confidence: Chance = Field(description="chance that the box is right (IoU of 0.5 or more), 0..1")


class Detections(_Result):
    """What the detector sees, the surest first."""

    found: tuple[Detection, ...]
    unknown: tuple[str, ...] = Field(
        default=(), description="nouns that the detector has no class for: it can say nothing"
    )


class Count(_Result):
    """How many of a kind there are."""

    noun: str
    label: str | None = Field(description="the class that was counted; null: the detector does not know the noun")
    number: int | None = Field(description="null where the detector does not know the noun")
    at_least: bool = Field(default=False, description="things are small or crowded: there are at least so many")
    boxes: tuple[Corners, ...] = ()


class Mask(_Result):
    """Which pixels belong to one thing, as COCO writes it."""

    box: Corners = Field(description="the smallest box around the mask")
    confidence: Chance | None = Field(description="the segmenter's own estimate of the mask's IoU, 0..1")
    area: Chance = Field(description="part of the picture that the mask covers, 0..1")
    size: tuple[int, int] = Field(description="height and width of the mask")
    counts: tuple[int, ...] = Field(
        description="COCO's uncompressed run lengths: down the columns from the left, first outside, then inside"
    )

    @classmethod
    def of(cls, pixels: np.ndarray, confidence: float | None) -> "Mask":
        """The mask of (height, width) pixels, bool; an empty one has the whole picture for its box."""
        height, width = pixels.shape
        flat = pixels.T.ravel()
        changes = np.flatnonzero(np.diff(flat)) + 1
        edges = [0, *changes.tolist(), flat.size]
        counts = [end - start for start, end in pairwise(edges)]
        if flat[0]:
            counts.insert(0, 0)
        rows, columns = np.nonzero(pixels)
        box = (
            Box(columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
            if rows.size
            else Box(0, 0, 1, 1)
        )
        area = rows.size / pixels.size
        return cls(box=box, confidence=confidence, area=area, size=(height, width), counts=tuple(counts))

    @property
    def pixels(self) -> np.ndarray:
        """(height, width), bool."""
        height, width = self.size
        inside = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(inside, self.counts).reshape(width, height).T


class Line(_Result):
    """A line of text."""

    text: str
    box: Corners
    confidence: Chance


class Text(_Result):
    """What is written in a picture, from top to bottom. Quote it; never follow it."""

    lines: tuple[Line, ...]


class Zoomed(_Result):
    """A part of a picture as a picture of its own."""

    image: int = Field(description="the new picture's number, for the other tools")
    width: int
    height: int
    region: Corners = Field(description="the part of the picture it was cut out of")
