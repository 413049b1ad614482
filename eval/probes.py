"""Changing what the model sees or reads, to find out what its answers hang on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from PIL import Image

from fourfold.eval.tasks import Item


class Probe(StrEnum):
    """A disturbance of every question of a run.

    PATCH_SHUFFLE: the image cut into 8 x 8 pieces and put together in another order; what survives needs no layout.
    DISTRACTOR: the prompt begins with somebody's wrong claim about the answer; what changes was not seen.
    """

    NONE = "none"
    PATCH_SHUFFLE = "patch-shuffle"
    DISTRACTOR = "distractor"


@dataclass(frozen=True)
class Shuffle:
    """Cut an image into `grid` x `grid` equal pieces and reorder them by the seed; the rest at the edges stays."""

    grid: int = 8
    seed: int = 0

    def __call__(self, image: Image.Image) -> Image.Image:
        """The reordered image, of the same size."""
        width, height = image.width // self.grid, image.height // self.grid
        if not width or not height:
            return image
        corners = [(x * width, y * height) for y in range(self.grid) for x in range(self.grid)]
        order = list(corners)
        random.Random(self.seed).shuffle(order)
        result = image.copy()
        for (x, y), (to_x, to_y) in zip(corners, order, strict=True):
            result.paste(image.crop((x, y, x + width, y + height)), (to_x, to_y))
        return result


@dataclass(frozen=True)
class PaintOut:
    """Paint boxes (x1, y1, x2, y2 in pixels) over with their surroundings, so that what was there is gone."""

    boxes: tuple[tuple[int, int, int, int], ...]

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, RGB, without what the boxes held."""
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32).copy()
        for box in self.boxes:
            _fill(pixels, box)
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _fill(pixels: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Each pixel becomes the mean of those just outside the box in its row and column, nearer ones weighing more."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    if x1 >= x2 or y1 >= y2:
        return
    rows = np.arange(y1, y2, dtype=np.float32)[:, None, None]
    columns = np.arange(x1, x2, dtype=np.float32)[None, :, None]
    total = np.zeros((y2 - y1, x2 - x1, 3), np.float32)
    weights = np.zeros((y2 - y1, x2 - x1, 1), np.float32)
    sides = []
    if x1 > 0:
        sides.append((pixels[y1:y2, x1 - 1][:, None], columns - x1 + 1))
    if x2 < width:
        sides.append((pixels[y1:y2, x2][:, None], x2 - columns))
    if y1 > 0:
        sides.append((pixels[y1 - 1, x1:x2][None], rows - y1 + 1))
    if y2 < height:
        sides.append((pixels[y2, x1:x2][None], y2 - rows))
    if not sides:  # the box is the whole image: nothing of it is left
        pixels[y1:y2, x1:x2] = 127.5
        return
    for colour, distance in sides:
        total += colour / distance
        weights = weights + 1 / distance
    pixels[y1:y2, x1:x2] = total / weights


def wrong_claims(items: Sequence[Item], texts: Sequence[str], seed: int) -> list[str]:
    """For each item a wrong answer: no for a true yes and the reverse, else another item's right answer.

    Args:
        items: the questions.
        texts: their right answers in words.
        seed: of the draw.
    """
    rng = random.Random(seed)
    claims = []
    for item, text in zip(items, texts, strict=True):
        if text in ("yes", "no"):
            claims.append("no" if text == "yes" else "yes")
        elif item.candidates:
            claims.append(rng.choice([one for one in item.candidates if one != text] or [""]))
        else:
            others = [other for other in texts if other != text and other not in ("yes", "no")]
            claims.append(rng.choice(others) if others else "")
    return claims


def with_claim(prompt: str, claim: str) -> str:
    """The prompt with the claim before its question and after the task tag, which must stay first."""
    if not claim:
        return prompt
    told = f'Somebody says: "It is {claim}." '
    if prompt.startswith("[") and "] " in prompt:
        tag, _, rest = prompt.partition("] ")
        return f"{tag}] {told}{rest}"
    return told + prompt
