"""Fitting the box head: maps of nouns on pictures that their read-outs have not seen, and the boxes that are there."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.readouts.box_head import AGREEMENT, PRIORS, WIDTH, BoxHead
from fourfold.assistant.readouts.map_rows import MOST, MapRows

_BATCH = 128
_LEARNING_RATE = 2e-3
_PAINTED = 0.3  # part of the maps in which some boxes are painted over before one is asked for


class BoxNet(nn.Module):
    """`BoxHead` while it is fitted."""

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
        """As `BoxHead.boxes`."""
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
        agreement = -(each - best[:, :, None]).abs().mean(1) / AGREEMENT
        weight = (place + agreement).softmax(-1)[:, None]
        sides = (each * weight).sum(-1).clamp(1e-3, 1 - 1e-3)
        every = hidden.flatten(2)
        pooled = torch.cat([(every * weight).sum(-1), every.mean(-1), priors], 1)
        correction = self.correction(functional.gelu(self.hidden(pooled)))
        corners = torch.sigmoid(torch.logit(sides) + correction[:, :4])
        low, high = torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])
        return torch.cat([low, high], 1), correction[:, 4], place


@dataclass(frozen=True)
class _Batch:
    maps: torch.Tensor
    priors: torch.Tensor
    boxes: torch.Tensor
    inside: torch.Tensor  # (batch, MOST, rows, columns), 1 where a box covers a cell by half or more


def fit_box_head(rows: MapRows, *, steps: int, seed: int = 0, on_progress: OnProgress = lambda event: None) -> BoxHead:
    """A head that was fitted to rows, those held back excepted."""
    torch.manual_seed(seed)
    drawn = np.random.default_rng(seed)
    head = BoxNet()
    used = np.flatnonzero(~np.array(rows.keep))
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, steps)
    for step in range(steps):
        batch = _batch(rows, drawn.choice(used, _BATCH), mirrored=step % 2 == 1)
        loss = _loss(head, _painted(batch, drawn))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 19 or step == steps - 1:
            on_progress(Progress("fitting boxes to maps", step + 1, steps, float(loss.detach())))
    return BoxHead({name: weight.numpy().copy() for name, weight in head.state_dict().items()})


def overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes (..., 4)."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (one, other)]
    return inner / (areas[0] + areas[1] - inner + 1e-6)


def _batch(rows: MapRows, chosen: np.ndarray, mirrored: bool) -> _Batch:
    maps = torch.from_numpy(np.stack([rows.maps[i] for i in chosen]).astype(np.float32))
    boxes = torch.from_numpy(np.stack([rows.boxes[i] for i in chosen]))
    priors = torch.tensor([rows.priors[i] for i in chosen])
    if mirrored:
        there = boxes[..., :1] >= 0
        turned = torch.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1)
        maps, boxes = maps.flip(-1), torch.where(there, turned, boxes)
    return _Batch(maps, priors, boxes, _inside(boxes, *maps.shape[2:]))


def _inside(boxes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Cells of a grid that boxes cover by half or more, or most of all; (..., 4) → (..., rows, columns)."""

    def along(low: torch.Tensor, high: torch.Tensor, cells: int) -> torch.Tensor:
        edge = torch.arange(cells)
        return (torch.minimum(high[..., None] * cells, edge + 1) - torch.maximum(low[..., None] * cells, edge)).clamp(0)

    across, down = along(boxes[..., 0], boxes[..., 2], columns), along(boxes[..., 1], boxes[..., 3], rows)
    covered = down[..., :, None] * across[..., None, :]
    most = covered.amax((-2, -1), keepdim=True)
    return ((covered >= most.clamp(max=0.5)) & (most > 0)).float()


def _painted(batch: _Batch, drawn: np.random.Generator) -> _Batch:
    """Some of the boxes painted over in some of the maps, now and then all of them: then there is nothing left."""
    count = len(batch.maps)
    some = torch.from_numpy(drawn.random(count) < _PAINTED)
    part = torch.from_numpy(drawn.random((count, 1)).astype(np.float32))  # few of them, or most
    gone = torch.from_numpy(drawn.random((count, MOST)).astype(np.float32)) < part.clamp(min=0.3)
    gone &= some[:, None] & (batch.boxes[..., 0] >= 0)
    covered = (batch.inside * gone[..., None, None]).amax(1, keepdim=True)
    lowest = batch.maps.amin((2, 3), keepdim=True)
    maps = torch.where(covered > 0, lowest, batch.maps)
    boxes = torch.where(gone[..., None], -torch.ones_like(batch.boxes), batch.boxes)
    return _Batch(maps, batch.priors, boxes, batch.inside * (~gone)[..., None, None])


def _loss(head: BoxNet, batch: _Batch) -> torch.Tensor:
    """Each map has the box that overlaps best what the head says; where none is left, only its chance is learnt."""
    found, chance, place = head(batch.maps, batch.priors)
    left = batch.boxes[..., 0] >= 0
    overlaps = torch.where(left, overlap(found[:, None], batch.boxes), -torch.ones(()))
    best = overlaps.max(1)
    boxes = batch.boxes[torch.arange(len(found)), best.indices]
    some = left.any(1).float()
    share = (place.softmax(-1) * batch.inside.amax(1).flatten(1)).sum(-1)
    parts = (1 - best.values) + 2 * (found - boxes).abs().mean(1) - 0.3 * torch.log(share + 1e-6)
    fits = functional.binary_cross_entropy_with_logits(chance, (best.values.detach() >= 0.5).float())
    return (parts * some).sum() / some.sum().clamp(min=1) + 0.3 * fits
