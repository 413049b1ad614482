"""Fitting the box head: maps of nouns on pictures that their read-outs have not seen, and the boxes that are there."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from fourfold.assistant.grounding import Box
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.readouts.box_head import BoxHead, overlap

_MOST = 8  # boxes of a map that are kept
_BATCH = 128
_LEARNING_RATE = 2e-3
_PAINTED = 0.3  # part of the maps in which some boxes are painted over before one is asked for


@dataclass
class MapRows:
    """Maps and their boxes, as they come."""

    maps: list[np.ndarray] = field(default_factory=list)  # (2, rows, columns) each, half precision
    priors: list[tuple[float, float, float]] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)  # (_MOST, 4) each; rows of -1 where there are fewer
    keep: list[bool] = field(default_factory=list)  # held back from the fit, for calibration

    def add(
        self, maps: np.ndarray, priors: tuple[float, float, float], boxes: Sequence[Box], keep: bool = False
    ) -> None:
        """One map and all boxes of its noun; those with the largest areas where there are too many."""
        sides = np.full((_MOST, 4), -1, np.float32)
        for row, box in enumerate(sorted(boxes, key=lambda box: -box.area)[:_MOST]):
            sides[row] = box.as_tuple()
        self.maps.append(maps.astype(np.float16))
        self.priors.append(priors)
        self.boxes.append(sides)
        self.keep.append(keep)

    def __len__(self) -> int:
        return len(self.maps)


@dataclass(frozen=True)
class _Batch:
    maps: torch.Tensor
    priors: torch.Tensor
    boxes: torch.Tensor
    inside: torch.Tensor  # (batch, _MOST, rows, columns), 1 where a box covers a cell by half or more


def fit_box_head(rows: MapRows, *, steps: int, seed: int = 0, on_progress: OnProgress = lambda event: None) -> BoxHead:
    """A head that was fitted to rows, those held back excepted."""
    torch.manual_seed(seed)
    drawn = np.random.default_rng(seed)
    head = BoxHead()
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
    return head.eval()


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
    gone = torch.from_numpy(drawn.random((count, _MOST)).astype(np.float32)) < part.clamp(min=0.3)
    gone &= some[:, None] & (batch.boxes[..., 0] >= 0)
    covered = (batch.inside * gone[..., None, None]).amax(1, keepdim=True)
    lowest = batch.maps.amin((2, 3), keepdim=True)
    maps = torch.where(covered > 0, lowest, batch.maps)
    boxes = torch.where(gone[..., None], -torch.ones_like(batch.boxes), batch.boxes)
    return _Batch(maps, batch.priors, boxes, batch.inside * (~gone)[..., None, None])


def _loss(head: BoxHead, batch: _Batch) -> torch.Tensor:
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
