"""From a score map to a box: a small convolutional net, fitted to the boxes of many nouns, that knows none of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

WIDTH = 32
PRIORS = 3
"""Of a noun: mean and spread of the logarithm of its boxes' areas, logarithm of their number."""
AGREEMENT = 0.1
"""Mean distance of two boxes' sides, in parts of the picture, at which they mean two things."""

SHAPES = {
    "first.weight": (WIDTH, 2 + 2 + PRIORS, 3, 3),
    "first.bias": (WIDTH,),
    "second.weight": (WIDTH, WIDTH, 3, 3),
    "second.bias": (WIDTH,),
    "wide.weight": (WIDTH, WIDTH, 3, 3),
    "wide.bias": (WIDTH,),
    "places.weight": (5, WIDTH, 1, 1),
    "places.bias": (5,),
    "hidden.weight": (2 * WIDTH, 2 * WIDTH + PRIORS),
    "hidden.bias": (2 * WIDTH,),
    "correction.weight": (5, 2 * WIDTH),
    "correction.bias": (5,),
}


@dataclass(frozen=True)
class FoundBox:
    """A box of a map.

    Attributes:
        sides: x1, y1, x2, y2 in 0..1.
        chance: that it overlaps a true box by IoU 0.5 or more, 0..1.
        point: x, y in 0..1, the likeliest place of the thing.
    """

    sides: tuple[float, float, float, float]
    chance: float
    point: tuple[float, float]


class BoxHead:
    """Reads one box off two maps; it works on grids of any size.

    The maps: the scores of the noun, in standard deviations over all patches, and the likeness of each patch to those
    that score best. Each place has its distances to the four sides; the box is the mean of what the likely places say.

    Args:
        weights: in float32, by the names of `BoxNet`.

    Raises:
        ValueError: one is missing, too much, or of another shape.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        if (found := {name: weight.shape for name, weight in weights.items()}) != SHAPES:
            raise ValueError(f"a box head has the weights {SHAPES}, not {found}")
        self.weights = dict(weights)

    def boxes(self, maps: np.ndarray, priors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes of maps.

        Args:
            maps: (batch, 2, rows, columns).
            priors: (batch, PRIORS).

        Returns:
            Boxes (batch, 4), x1 y1 x2 y2 in 0..1; logits (batch,) of the chance that they fit; logits
            (batch, rows * columns) of where the thing is.
        """
        count, _, rows, columns = maps.shape
        down, across = np.meshgrid(
            (np.arange(rows, dtype=np.float32) + 0.5) / rows,
            (np.arange(columns, dtype=np.float32) + 0.5) / columns,
            indexing="ij",
        )
        grid = np.broadcast_to(np.stack([across, down]), (count, 2, rows, columns))
        spread = np.broadcast_to(priors[:, :, None, None], (count, PRIORS, rows, columns))
        hidden = _gelu(self._convolved("first", np.concatenate([maps / 2, grid, spread], 1)))
        hidden = hidden + _gelu(self._convolved("second", hidden))
        hidden = hidden + _gelu(self._convolved("wide", hidden, dilation=2))
        every = hidden.reshape(count, WIDTH, -1)
        told = self.weights["places.weight"].reshape(5, WIDTH) @ every + self.weights["places.bias"][:, None]
        place = told[:, 0]
        points = grid.reshape(count, 2, -1)
        reach = np.logaddexp(0, told[:, 1:])
        each = np.concatenate([points - reach[:, :2], points + reach[:, 2:]], 1)
        # Of two things side by side, the mean box would lie between them: places are heard that agree with the best.
        best = each[np.arange(count), :, place.argmax(1)]
        agreement = -np.abs(each - best[:, :, None]).mean(1) / AGREEMENT
        weight = _softmax(place + agreement)[:, None]
        sides = (each * weight).sum(-1).clip(1e-3, 1 - 1e-3)
        pooled = np.concatenate([(every * weight).sum(-1), every.mean(-1), priors], 1)
        correction = self._linear("correction", _gelu(self._linear("hidden", pooled)))
        corners = _sigmoid(np.log(sides / (1 - sides)) + correction[:, :4])
        low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
        return np.concatenate([low, high], 1), correction[:, 4], place

    def box(self, maps: np.ndarray, priors: np.ndarray) -> FoundBox:
        """The box of maps (2, rows, columns): the mean of what the picture and its mirror image give, or the likelier
        of the two where they mean different things."""
        _, rows, columns = maps.shape
        both = np.stack([maps, maps[:, :, ::-1]]).astype(np.float32)
        boxes, chances, places = self.boxes(both, np.broadcast_to(priors.astype(np.float32), (2, PRIORS)))
        x1, y1, x2, y2 = boxes[1]
        boxes[1] = 1 - x2, y1, 1 - x1, y2
        place = places.reshape(2, rows, columns)
        place = np.stack([place[0], place[1, :, ::-1]])
        kept = slice(None)
        if _overlap(*boxes) < 0.5:
            kept = slice(int(chances.argmax()), int(chances.argmax()) + 1)
        best = int(place[kept].mean(0).argmax())
        x1, y1, x2, y2 = boxes[kept].mean(0).tolist()
        point = (best % columns + 0.5) / columns, (best // columns + 0.5) / rows
        return FoundBox((x1, y1, x2, y2), float(_sigmoid(chances[kept].mean())), point)

    def _linear(self, name: str, inputs: np.ndarray) -> np.ndarray:
        return inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _convolved(self, name: str, inputs: np.ndarray, dilation: int = 1) -> np.ndarray:
        """A convolution by 3 x 3, (batch, channels, rows, columns), that keeps the grid."""
        count, channels, rows, columns = inputs.shape
        padded = np.pad(inputs, ((0, 0), (0, 0), (dilation, dilation), (dilation, dilation)))
        shifts = [
            padded[:, :, dilation * down : dilation * down + rows, dilation * across : dilation * across + columns]
            for down in range(3)
            for across in range(3)
        ]
        columns_of = np.stack(shifts, 2).reshape(count, channels * 9, rows * columns)
        weight = self.weights[f"{name}.weight"]
        out = weight.reshape(len(weight), -1) @ columns_of + self.weights[f"{name}.bias"][:, None]
        return out.reshape(count, len(weight), rows, columns)


def _gelu(values: np.ndarray) -> np.ndarray:
    return values * (1 + _erf(values * np.float32(0.5**0.5))) / 2


def _erf(values: np.ndarray) -> np.ndarray:
    """Error function to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
    steps = 1 / (1 + 0.3275911 * np.abs(values))
    series = np.polyval([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0], steps)
    return np.sign(values) * (1 - series * np.exp(-np.square(values)))


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    inner = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0).prod()
    areas = (one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()
    return float(inner / (areas - inner + 1e-6))
