"""Rendered scenes: shapes on a background, of which everything is known exactly."""

import math
import random
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw, ImageFont

from fourfold.assistant.grounding import Box

SIZE = 256  # pixels a side
_FINE = 2  # drawn at this many times the size, then averaged down
PALETTE = {
    "red": (215, 35, 35),
    "blue": (40, 75, 215),
    "green": (35, 150, 55),
    "yellow": (240, 215, 40),
    "white": (248, 248, 248),
    "black": (18, 18, 18),
    "orange": (245, 135, 25),
    "purple": (130, 45, 165),
    "pink": (245, 140, 190),
    "brown": (125, 75, 35),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring", "pentagon", "rectangle")
_SIGNS = (
    "HELLO STOP OPEN EXIT CAFE TAXI SALE BOOK FIRE MILK PARK HOME LOVE GOLD BLUE ZERO KING WOLF TREE STAR "
    "CITY MOON BANK POST TEA ROAD SHIP LION FISH RAIN SNOW WIND"
)
WORDS = tuple(_SIGNS.split())
_GROUNDS = ("plain", "gradient", "noise", "stripes", "checks", "clouds")


@dataclass(frozen=True)
class Item:
    """One shape of a scene."""

    # shape, colour: of `SHAPES` and `PALETTE`
    shape: str
    colour: str
    size: str  # "small", "medium" or "large"
    # x, y: its centre in pixels
    x: float
    y: float
    radius: float  # half its largest extent in pixels
    turn: float  # rotation in degrees

    @cached_property
    def outline(self) -> tuple[tuple[float, float], ...]:
        """Corners of its contour in pixels of the scene; round shapes have many."""
        points = _UNIT[self.shape]
        cos, sin = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        return tuple(
            (self.x + self.radius * (px * cos - py * sin), self.y + self.radius * (px * sin + py * cos))
            for px, py in points
        )

    @property
    def box(self) -> Box:
        """Its exact extent, in 0..1."""
        xs, ys = zip(*self.outline, strict=True)
        return Box(min(xs) / SIZE, min(ys) / SIZE, max(xs) / SIZE, max(ys) / SIZE)


@dataclass(frozen=True)
class Scene:
    """A description from which the image follows."""

    id: str  # the same for the same pixels
    items: tuple[Item, ...]  # shapes that hardly overlap, in the order in which they are drawn
    word: str  # a written word, or ""
    word_box: Box | None  # where it stands
    ground: str  # kind of background
    tones: tuple[tuple[int, int, int], tuple[int, int, int]]  # two background colours, RGB
    seed: int  # of the background's noise

    def render(self) -> Image.Image:
        """`SIZE` x `SIZE` pixels, RGB."""
        side = SIZE * _FINE
        canvas = _background(self.ground, self.tones, self.seed).resize((side, side), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(canvas)
        for item in self.items:
            contour = [(x * _FINE, y * _FINE) for x, y in item.outline]
            fill = _shade(item.colour, random.Random(f"{self.id} {item.x}"))
            if item.shape == "ring":
                pen.line([*contour, contour[0], contour[1]], fill=fill, width=1)
                inner = [((x - item.x) * 0.55 + item.x, (y - item.y) * 0.55 + item.y) for x, y in item.outline]
                mask = Image.new("1", canvas.size)
                shape = ImageDraw.Draw(mask)
                shape.polygon(contour, fill=1)
                shape.polygon([(x * _FINE, y * _FINE) for x, y in inner], fill=0)
                canvas.paste(fill, mask=mask)
            else:
                pen.polygon(contour, fill=fill)
        if self.word_box is not None:
            x1, y1, _, y2 = self.word_box.to_pixels(side, side)
            font = ImageFont.load_default(_font_size(round((y2 - y1) / _FINE)) * _FINE)
            left, top, _, _ = font.getbbox(self.word)
            bright = sum(sum(tone) for tone in self.tones) / 6 > 127
            pen.text((x1 - left, y1 - top), self.word, font=font, fill="black" if bright else "white")
        return canvas.reduce(_FINE)


def make_scene(seed: str, most: int = 6) -> Scene:
    """The scene of a seed, which may be any text, with at most so many shapes."""
    rng = random.Random(f"scene {seed}")
    ground = rng.choice(_GROUNDS)
    base = tuple(rng.randrange(60, 245) for _ in range(3))
    if rng.random() < 0.6:  # mostly greyish, so that every colour of the palette can be seen on it
        grey = rng.randrange(70, 235)
        base = tuple(min(255, max(0, grey + rng.randrange(-22, 23))) for _ in range(3))
    shift = rng.randrange(-45, 46)
    tones = (base, tuple(min(255, max(0, tone + shift)) for tone in base))
    word, word_box = "", None
    taken: list[Box] = []
    if rng.random() < 0.15:
        word = rng.choice(WORDS)
        word_box = _word_box(word, rng)
        taken.append(word_box)

    def far(colour: tuple[int, int, int]) -> bool:
        """Whether a colour can be seen on both tones of the background."""
        return all(sum(abs(a - b) for a, b in zip(colour, tone, strict=True)) > 120 for tone in tones)

    colours = [name for name, rgb in PALETTE.items() if far(rgb)]
    count = rng.choices(range(1, most + 1), weights=[5, 6, 6, 5, 3, 2, *[1] * most][:most])[0]
    # Few kinds in one scene make counts above one and questions with two candidates likely.
    shapes = rng.sample(SHAPES, rng.choice((1, 2, 3, 4)))
    shades = rng.sample(colours, min(len(colours), rng.choice((1, 2, 3, 4))))
    items: list[Item] = []
    for _ in range(count):
        for _ in range(30):
            size = rng.choice(("small", "medium", "large") if count < 4 else ("small", "medium", "medium"))
            radius = {"small": rng.uniform(14, 20), "medium": rng.uniform(25, 33), "large": rng.uniform(42, 56)}[size]
            shape = rng.choice(shapes)
            most_turned = 12 if shape in ("circle", "ring", "diamond", "square", "cross") else 25
            turn = rng.uniform(-most_turned, most_turned)
            x, y = rng.uniform(radius + 2, SIZE - radius - 2), rng.uniform(radius + 2, SIZE - radius - 2)
            item = Item(shape, rng.choice(shades), size, x, y, radius, turn)
            if all(_overlap(item.box, other) < 0.02 for other in taken):
                items.append(item)
                taken.append(item.box)
                break
    return Scene(seed, tuple(items), word, word_box, ground, tones, rng.randrange(2**31))  # type: ignore[arg-type]


def _overlap(one: Box, other: Box) -> float:
    """Intersection as a part of the smaller box."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    return max(width, 0) * max(height, 0) / min(one.area, other.area)


def _font_size(height: int) -> int:
    """Size of the default font at which capitals are about `height` pixels high."""
    return round(height / 0.72)


def _word_box(word: str, rng: random.Random) -> Box:
    size = rng.randrange(26, 47)
    left, top, right, bottom = ImageFont.load_default(size).getbbox(word)
    width, height = right - left, bottom - top
    # The box's height gives the font size back, up to a pixel; the width is measured with that size.
    left, top, right, bottom = ImageFont.load_default(_font_size(round(height))).getbbox(word)
    width = right - left
    x, y = rng.uniform(4, SIZE - width - 4), rng.uniform(4, SIZE - height - 4)
    return Box(x / SIZE, y / SIZE, (x + width) / SIZE, (y + height) / SIZE)


def _shade(colour: str, rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, tone + rng.randrange(-14, 15))) for tone in PALETTE[colour])


def _background(ground: str, tones: tuple, seed: int) -> Image.Image:
    """A background of `SIZE` pixels from two tones."""
    rng = random.Random(seed)
    first, second = (Image.new("RGB", (SIZE, SIZE), tone) for tone in tones)
    if ground == "plain":
        return first
    if ground == "gradient":
        mask = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270)))
    elif ground in ("noise", "clouds"):
        cells = SIZE // 2 if ground == "noise" else 8
        noise = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
        mask = noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    else:
        mask = Image.new("L", (SIZE, SIZE))
        pen, step = ImageDraw.Draw(mask), rng.randrange(10, 40)
        width = step if ground == "checks" else SIZE
        for row in range(0, SIZE, step):
            for column in range(0, SIZE, width):
                if (row // step + column // step) % 2:
                    pen.rectangle((column, row, column + width - 1, row + step - 1), fill=255)
        if rng.random() < 0.5:
            mask = mask.transpose(Image.Transpose.ROTATE_90)
    return Image.composite(second, first, mask.resize((SIZE, SIZE)))


def _regular(corners: int, start: float = -90.0) -> list[tuple[float, float]]:
    angles = (math.radians(start + 360 * i / corners) for i in range(corners))
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _heart(t: float) -> tuple[float, float]:
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 16 * math.sin(t) ** 3 / 17, -y / 17


# Contours within the unit circle.
_UNIT: dict[str, list[tuple[float, float]]] = {
    "circle": _regular(72),
    "ring": _regular(72),
    "square": _regular(4, -45),
    "rectangle": [(-0.9, -0.44), (0.9, -0.44), (0.9, 0.44), (-0.9, 0.44)],
    "triangle": _regular(3),
    "diamond": [(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],
    "pentagon": _regular(5),
    "star": [(x * (0.42 if i % 2 else 1), y * (0.42 if i % 2 else 1)) for i, (x, y) in enumerate(_regular(10))],
    "heart": [_heart(2 * math.pi * i / 48) for i in range(48)],
    "cross": [
        (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
        (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
    ],
}  # fmt: skip
