"""The typed box: a rectangle in parts of an image."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle in parts of the image: 0..1 from the left (x) and from the top (y), x1 <= x2 and y1 <= y2.

    Raises:
        ValueError: a side lies outside 0..1 or the corners are the wrong way round.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        # Written so that NaN, which compares false with everything, is refused too.
        if not (0 <= self.x1 <= self.x2 <= 1 and 0 <= self.y1 <= self.y2 <= 1):
            raise ValueError(f"a box needs 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1, got {self.as_tuple()}")

    @classmethod
    def from_pixels(cls, xyxy: Sequence[float], width: int, height: int) -> "Box":
        """The box of pixel corners in an image of `width` x `height`; what lies outside the image is cut off.

        Annotations overrun their image by parts of a pixel, which is why cutting is right and refusing is not.

        Raises:
            ValueError: the corners are the wrong way round, or the whole box lies outside.
        """
        x1, y1, x2, y2 = xyxy
        if not (x1 <= x2 and y1 <= y2 and x2 >= 0 and y2 >= 0 and x1 <= width and y1 <= height):
            raise ValueError(f"the box {tuple(xyxy)} does not lie in an image of {width} x {height} pixels")
        return cls(max(x1, 0) / width, max(y1, 0) / height, min(x2, width) / width, min(y2, height) / height)

    def to_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) in pixels of an image of `width` x `height`, not rounded."""
        return self.x1 * width, self.y1 * height, self.x2 * width, self.y2 * height

    def as_tuple(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) in 0..1."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def area(self) -> float:
        """Part of the image that the box covers, 0..1."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def iou(self, other: "Box") -> float:
        """Intersection over union of continuous rectangles, 0..1 (no "+1 pixel").

        Two boxes without area have no ratio; it is 1 where they are equal and 0 where not.
        """
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        intersection = max(width, 0.0) * max(height, 0.0)
        union = self.area + other.area - intersection
        if union <= 0:
            return float(self == other)
        return intersection / union
