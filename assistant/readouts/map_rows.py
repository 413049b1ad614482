"""Maps of nouns on pictures and the boxes that are there: what the box head is fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fourfold.assistant.grounding import Box

MOST = 8
"""Boxes of a map that are kept."""


@dataclass
class MapRows:
    """Maps and their boxes, as they come."""

    maps: list[np.ndarray] = field(default_factory=list)  # (2, rows, columns) each, half precision
    priors: list[tuple[float, float, float]] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)  # (MOST, 4) each; rows of -1 where there are fewer
    keep: list[bool] = field(default_factory=list)  # held back from the fit, for calibration

    def add(
        self, maps: np.ndarray, priors: tuple[float, float, float], boxes: Sequence[Box], keep: bool = False
    ) -> None:
        """One map and all boxes of its noun; those with the largest areas where there are too many."""
        sides = np.full((MOST, 4), -1, np.float32)
        for row, box in enumerate(sorted(boxes, key=lambda box: -box.area)[:MOST]):
            sides[row] = box.as_tuple()
        self.maps.append(maps.astype(np.float16))
        self.priors.append(priors)
        self.boxes.append(sides)
        self.keep.append(keep)

    def __len__(self) -> int:
        return len(self.maps)
