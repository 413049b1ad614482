"""Rendered surfaces with scratches, stains and dents, of which every pixel is known: for finding defects.

A product is a material with its colour and grain; its pieces differ in grain, light and defects, as on a production
line.
"""

import math
import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from fourfold.assistant.grounding import Box

SIZE = 256  # pixels a side
DEFECTS = ("scratch", "stain", "dent")
MATERIALS = ("metal", "plastic", "wood", "fabric", "paint", "leather")
_PIECE = 16  # pixels a side of the squares that a scratch is cut along
_FINE = 2  # scratches are drawn at this many times the size


@dataclass(frozen=True)
class Defect:
    """One flaw of a surface.

    Args:
        kind: of `DEFECTS`.
        mask: (256, 256) bool, the pixels that it changes visibly.
    """

    kind: str
    mask: np.ndarray

    @property
    def box(self) -> Box:
        """Its extent in 0..1."""
        return _extent(self.mask)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Boxes that hold little but the defect: of a scratch those of its pieces, else its own."""
        if self.kind != "scratch":
            return (self.box,)
        found = []
        for top in range(0, SIZE, _PIECE):
            for left in range(0, SIZE, _PIECE):
                piece = np.zeros_like(self.mask)
                part = slice(top, top + _PIECE), slice(left, left + _PIECE)
                piece[part] = self.mask[part]
                if piece.sum() >= _PIECE // 2:
                    found.append(_extent(piece))
        return tuple(found) or (self.box,)


@dataclass(frozen=True)
class Surface:
    """A piece of a product, from which image and masks follow.

    Args:
        product: any text; pieces of one product share material, colour and grain.
        piece: any text.
        kinds: the defects, in the order in which they are drawn; none for a good piece.
    """

    product: str
    piece: str
    kinds: tuple[str, ...] = ()

    @cached_property
    def _made(self) -> tuple[np.ndarray, tuple[Defect, ...]]:
        rng = random.Random(f"{self.product} {self.piece}")
        pixels = _material(self.product, rng)
        defects = []
        for kind in self.kinds:
            pixels, mask = _DRAWN[kind](pixels, rng)
            defects.append(Defect(kind, mask))
        return pixels, tuple(defects)

    def render(self) -> Image.Image:
        """256 x 256 pixels, RGB."""
        return Image.fromarray(self._made[0].clip(0, 255).astype(np.uint8))

    @property
    def defects(self) -> tuple[Defect, ...]:
        """As many as `kinds`, in its order."""
        return self._made[1]

    @property
    def mask(self) -> np.ndarray:
        """(256, 256) bool: all pixels of any defect."""
        return np.any([np.zeros((SIZE, SIZE), bool), *(defect.mask for defect in self.defects)], axis=0)


def make_surface(seed: str) -> Surface:
    """A piece of a product of its own with one to three defects; the seed may be any text."""
    rng = random.Random(f"surface {seed}")
    return Surface(seed, "piece", tuple(rng.choices(DEFECTS, k=rng.choice((1, 1, 2, 3)))))


def _extent(mask: np.ndarray) -> Box:
    rows, columns = np.nonzero(mask)
    sides = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return Box(*(float(side) / SIZE for side in sides))


def _noise(rng: random.Random, rows: int, columns: int) -> np.ndarray:
    """(256, 256) smooth noise about 0 with a standard deviation of 1, of so many cells down and across."""
    cells = np.random.default_rng(rng.randrange(2**32)).normal(size=(rows, columns)).astype(np.float32)
    image = Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    found = np.asarray(image)
    return (found - found.mean()) / (found.std() + 1e-6)


def _material(product: str, rng: random.Random) -> np.ndarray:
    """(256, 256, 3) float: the product's colour and grain, the piece's noise and light."""
    own = random.Random(f"product {product}")
    material = own.choice(MATERIALS)
    base = np.array([own.uniform(70, 205)] * 3) + np.array([own.uniform(-35, 35) for _ in range(3)])
    strength = own.uniform(0.7, 1.3)
    fine = _noise(rng, SIZE, SIZE)
    if material == "metal":
        grain = 7 * _noise(rng, SIZE, 4) + 3 * fine
    elif material == "wood":
        waves = np.sin(_noise(rng, 3, 8) * 2.5 + np.linspace(0, own.uniform(30, 90), SIZE)[None, :])
        base = base * np.array([1.05, 0.9, 0.7])
        grain = 12 * waves + 5 * _noise(rng, 6, SIZE) + 2 * fine
    elif material == "fabric":
        step = own.uniform(0.8, 1.6)
        across = np.sin(np.arange(SIZE) * step)
        grain = 9 * across[None, :] * across[:, None] + 5 * fine
    elif material == "leather":
        cells = own.randrange(40, 80)
        grain = -9 * np.abs(_noise(rng, cells, cells)) + 2 * fine
    elif material == "plastic":
        grain = 3 * _noise(rng, 90, 90) + 2 * fine
    else:
        grain = 1.5 * fine
    angle, light = rng.uniform(0, 2 * math.pi), rng.uniform(0, 22)
    down, across = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    shade = light * (math.cos(angle) * across + math.sin(angle) * down) + rng.uniform(-6, 6)
    return (base[None, None] + (strength * grain + shade)[..., None]).astype(np.float32)


def _scratch(pixels: np.ndarray, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """A thin line, lighter or darker, that bends a little."""
    side = SIZE * _FINE
    canvas = Image.new("L", (side, side))
    x, y = rng.uniform(0.15, 0.85) * side, rng.uniform(0.15, 0.85) * side
    angle, points = rng.uniform(0, 2 * math.pi), [(x, y)]
    for _ in range(rng.randrange(8, 22)):
        angle += rng.gauss(0, 0.12)
        x, y = x + 16 * math.cos(angle), y + 16 * math.sin(angle)
        if not (0 <= x < side and 0 <= y < side):
            break
        points.append((x, y))
    if len(points) == 1:
        points.append((x - 16 * math.cos(angle), y - 16 * math.sin(angle)))
    ImageDraw.Draw(canvas).line(points, fill=255, width=rng.randrange(2, 6))
    cover = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255
    change = rng.choice((-1, 1)) * rng.uniform(35, 80)
    return pixels + change * cover[..., None], cover > 0.25


def _stain(pixels: np.ndarray, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """A blotch with an uneven rim that darkens and colours what is under it."""
    x, y, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.06, 0.18)
    down, across = np.mgrid[0 : 1 : SIZE * 1j, 0 : 1 : SIZE * 1j]
    distance = np.hypot(across - x, down - y) / radius + 0.25 * _noise(rng, 12, 12)
    cover = 1 / (1 + np.exp((distance - 1) * 9))
    rim = np.exp(-(((distance - 0.95) / 0.15) ** 2)) * rng.uniform(0, 0.5)
    tint = np.array([rng.uniform(0.4, 0.85) for _ in range(3)])
    depth = (cover * rng.uniform(0.5, 0.95) + rim * 0.3).clip(0, 1)[..., None]
    return pixels * (1 - depth * (1 - tint)), cover > 0.5


def _dent(pixels: np.ndarray, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """A hollow: its side towards the light is dark, the other one light."""
    x, y, radius = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85), rng.uniform(0.05, 0.14)
    down, across = np.mgrid[0 : 1 : SIZE * 1j, 0 : 1 : SIZE * 1j]
    across, down = (across - x) / radius, (down - y) / (radius * rng.uniform(0.7, 1.4))
    distance = np.hypot(across, down)
    slope = distance * np.exp(-(distance**2) * 1.6) * 2.2
    angle = rng.uniform(0, 2 * math.pi)
    facing = (math.cos(angle) * across + math.sin(angle) * down) / (distance + 1e-6)
    shade = rng.uniform(30, 65) * slope * facing
    return pixels + shade[..., None], distance < 1.1


_DRAWN = {"scratch": _scratch, "stain": _stain, "dent": _dent}
