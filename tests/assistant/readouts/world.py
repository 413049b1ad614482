"""Pictures without a tower: each thing of a small world has a direction of its own in the features of its patches."""

import random
from collections.abc import Sequence

import numpy as np

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts import Example, NamedThing, normalised

GRID, WIDTH = 8, 32
NOUNS = ("dog", "ball", "tree", "car", "house", "boat")
COLOURS = ("red", "blue")
_DIRECTIONS = np.random.default_rng(1).normal(size=(len(NOUNS) + len(COLOURS), WIDTH)).astype(np.float32)


def direction(name: str) -> np.ndarray:
    """(WIDTH,) what a noun or a colour adds to a patch."""
    return _DIRECTIONS[(*NOUNS, *COLOURS).index(name)]


class World:
    """Pictures with things in them.

    Attributes:
        examples: what is in each picture.
        features: of each picture by key, (GRID, GRID, WIDTH), normalised.
    """

    def __init__(self, count: int, seed: int = 0, most: int = 3) -> None:
        drawn = random.Random(seed)
        self.examples: list[Example] = []
        self.features: dict[str, np.ndarray] = {}
        for number in range(count):
            boxes: list[Box] = []
            for box in (draw_box(drawn) for _ in range(drawn.randint(1, most))):
                if all(box.iou(other) == 0 for other in boxes):
                    boxes.append(box)
            kinds = drawn.sample(NOUNS, drawn.randint(1, 2))  # two of a kind are usual
            things = [(drawn.choice(kinds), drawn.choice((*COLOURS, "")), box) for box in boxes]
            key = f"world-{seed}-{number}"
            self.features[key] = picture(things, seed=number + 1000 * seed)
            named = tuple(NamedThing((noun,), (box,), (colour,) if colour else ()) for noun, colour, box in things)
            self.examples.append(Example(key, named, vocabulary=frozenset(NOUNS)))


def draw_box(drawn: random.Random) -> Box:
    """Of 2 to 4 cells a side, on the grid."""
    width, height = drawn.randint(2, 4), drawn.randint(2, 4)
    x, y = drawn.randint(0, GRID - width), drawn.randint(0, GRID - height)
    return Box(x / GRID, y / GRID, (x + width) / GRID, (y + height) / GRID)


def picture(things: Sequence[tuple[str, str, Box]], seed: int = 0) -> np.ndarray:
    """Features of a picture with things: noun, colour or "", and box."""
    features = np.random.default_rng(seed).normal(size=(GRID, GRID, WIDTH)).astype(np.float32)
    for noun, colour, box in things:
        x1, y1, x2, y2 = (round(side * GRID) for side in box.as_tuple())
        features[y1:y2, x1:x2] += 2 * direction(noun) + (2 * direction(colour) if colour else 0)
    return normalised(features)
