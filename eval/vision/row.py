"""One figure of a table about eyes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fourfold.eval.statistics import Estimate

See = Callable[[Image.Image], np.ndarray]
"""The tower's features of a picture, (rows, columns, width), normalised for read-outs."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        of: what was measured.
        figure: which figure of it.
        value: with its interval, clustered by picture; percent, or seconds.
    """

    of: str
    figure: str
    value: Estimate

    def to_json(self) -> dict[str, Any]:
        return {"of": self.of, "figure": self.figure, **self.value.to_json()}
