"""From a score map to a box: a small convolutional net, fitted to the boxes of many nouns, that knows none of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WIDTH = 32
PRIORS = 3
"""Of a noun: mean and spread of the logarithm of its boxes' areas, logarithm of their number."""


_AGREEMENT = 0.1  # mean distance of two boxes' sides, in parts of the picture, at which they mean two things


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


class BoxHead(nn.Module):
    """Reads one box off two maps; it works on grids of any size.

    The maps: the scores of the noun, in standard deviations over all patches, and the likeness of each patch to those
    that score best. Each place has its distances to the four sides; the box is the mean of what the likely places say.
    """

    def __init__(self, width: int = WIDTH, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 + 2 + PRIORS, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.wide = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.dropout = nn.Dropout2d(dropout)
        self.places = nn.Conv2d(width, 5, 1)
        self.hidden = nn.Linear(2 * width + PRIORS, 2 * width)
        self.correction = nn.Linear(2 * width, 5)

    def forward(self, maps: torch.Tensor, priors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes of maps.

        Args:
            maps: (batch, 2, rows, columns).
            priors: (batch, PRIORS).

        Returns:
            Boxes (batch, 4), x1 y1 x2 y2 in 0..1; logits (batch,) of the chance that they fit; logits
            (batch, rows * columns) of where the thing is.
        """
        count, _, rows, columns = maps.shape
        down, across = torch.meshgrid(
            (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
        )
        grid = torch.stack([across, down])
        spread = priors[:, :, None, None].expand(-1, -1, rows, columns)
        inputs = torch.cat([maps / 2, grid.expand(count, -1, -1, -1), spread], 1)
        hidden = functional.gelu(self.first(inputs))
        hidden = hidden + functional.gelu(self.second(hidden))
        hidden = self.dropout(hidden + functional.gelu(self.wide(hidden)))
        told = self.places(hidden).flatten(2)
        place = told[:, 0]
        points = grid.flatten(1)[None]
        reach = functional.softplus(told[:, 1:])
        each = torch.cat([points - reach[:, :2], points + reach[:, 2:]], 1)
        # Of two things side by side, the mean box would lie between them: places are heard that agree with the best.
        best = each[torch.arange(count), :, place.argmax(1)].detach()
        agreement = -(each - best[:, :, None]).abs().mean(1) / _AGREEMENT
        weight = (place + agreement).softmax(-1)[:, None]
        sides = (each * weight).sum(-1).clamp(1e-3, 1 - 1e-3)
        every = hidden.flatten(2)
        pooled = torch.cat([(every * weight).sum(-1), every.mean(-1), priors], 1)
        correction = self.correction(functional.gelu(self.hidden(pooled)))
        corners = torch.sigmoid(torch.logit(sides) + correction[:, :4])
        low, high = torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])
        return torch.cat([low, high], 1), correction[:, 4], place

    @torch.inference_mode()
    def box(self, maps: np.ndarray, priors: np.ndarray) -> FoundBox:
        """The box of maps (2, rows, columns): the mean of what the picture and its mirror image give, or the likelier
        of the two where they mean different things."""
        _, rows, columns = maps.shape
        both = torch.from_numpy(np.stack([maps, maps[:, :, ::-1]]).astype(np.float32))
        boxes, chances, places = self(both, torch.from_numpy(priors.astype(np.float32)).expand(2, -1))
        boxes[1] = torch.stack([1 - boxes[1, 2], boxes[1, 1], 1 - boxes[1, 0], boxes[1, 3]])
        place = places.view(2, rows, columns)
        place = torch.stack([place[0], place[1].flip(-1)])
        kept = slice(None)
        if overlap(boxes[0], boxes[1]) < 0.5:
            kept = slice(int(chances.argmax()), int(chances.argmax()) + 1)
        best = int(place[kept].mean(0).argmax())
        x1, y1, x2, y2 = boxes[kept].mean(0).tolist()
        point = (best % columns + 0.5) / columns, (best // columns + 0.5) / rows
        return FoundBox((x1, y1, x2, y2), float(torch.sigmoid(chances[kept].mean())), point)


def overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes (..., 4)."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (one, other)]
    return inner / (areas[0] + areas[1] - inner + 1e-6)
