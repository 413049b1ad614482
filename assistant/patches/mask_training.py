"""Teaching the mask head: from pictures with boxes and masks, whoever made them."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from fourfold.assistant.grounding import Box
from fourfold.assistant.patches.mask_head import MaskHead, look, target
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.training.data.scenes import SIZE, Item, make_scene

_BATCH = 20
_RATE = 2e-3
_FINE = 4  # a scene's contour is drawn at this many times its size


class Masked(NamedTuple):
    """A picture with things whose pixels are known.

    Args:
        features: (rows, columns, width), normalised.
        image: RGB.
        boxes: one a thing.
        masks: (height, width) bool, one a thing.
    """

    features: np.ndarray
    image: Image.Image
    boxes: Sequence[Box]
    masks: Sequence[np.ndarray]


def scene_masks(see: Callable[[Image.Image], np.ndarray], prefix: str, number: int) -> Iterator[Masked]:
    """Rendered scenes, of which every pixel is known."""
    for place in range(number):
        scene = make_scene(f"{prefix} {place}")
        image = scene.render()
        yield Masked(see(image), image, [item.box for item in scene.items], [pixels_of(item) for item in scene.items])


def pixels_of(item: Item) -> np.ndarray:
    """The pixels of a scene's shape, (256, 256) bool."""
    canvas = Image.new("1", (_FINE * SIZE, _FINE * SIZE))
    pen = ImageDraw.Draw(canvas)
    pen.polygon([(_FINE * x, _FINE * y) for x, y in item.outline], fill=1)
    if item.shape == "ring":
        inner = [((x - item.x) * 0.55 + item.x, (y - item.y) * 0.55 + item.y) for x, y in item.outline]
        pen.polygon([(_FINE * x, _FINE * y) for x, y in inner], fill=0)
    return np.asarray(canvas.resize((SIZE, SIZE)))


def learn_mask_head(
    pictures: Sequence[Masked], *, steps: int = 400, seed: int = 0, on_progress: OnProgress = lambda event: None
) -> MaskHead:
    """A head that was taught by pictures: cross-entropy and overlap (dice) of its 28 x 28 cells, AdamW.

    Args:
        pictures: one at least, of one tower.
        steps: of twenty boxes each, half of them mirrored.
        seed: of weights and draws.
        on_progress: told every step, with its loss.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    # In half precision: a thousand boxes are a gigabyte and a half.
    read: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for one in pictures:
        patches, colours = look(one.features, one.image, one.boxes)
        for place, (box, mask) in enumerate(zip(one.boxes, one.masks, strict=True)):
            read.append((patches[place].half(), colours[place].half(), target(mask, box)))
    head = MaskHead(pictures[0].features.shape[-1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / 20) * (1 - step / steps)
        batch = rng.choices(read, k=_BATCH)
        patches, colours, wanted = (torch.stack([one[part] for one in batch]).float() for part in range(3))
        half = _BATCH // 2
        patches, colours, wanted = (
            torch.cat([part[:half], part[half:].flip(2)]) for part in (patches, colours, wanted)
        )
        logits = head(patches, colours)
        chance = logits.sigmoid()
        both, each = (chance * wanted).sum((1, 2)), (chance + wanted).sum((1, 2))
        loss = F.binary_cross_entropy_with_logits(logits, wanted) + (1 - (2 * both + 1) / (each + 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_progress(Progress("Teaching masks", step + 1, steps, loss.item()))
    return head.eval()


def _half_mirrored(batch: torch.Tensor) -> torch.Tensor:
    """The first half as it is, the others from right to left; (boxes, rows, columns, ...)."""
    half = len(batch) // 2
    return torch.cat([batch[:half], batch[half:].flip(2)])
