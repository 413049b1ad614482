"""A library that was really learnt: coloured squares on noise, by the tower of the tiny checkpoint."""

import random

import numpy as np
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts import Example, NamedThing, ReadoutLibrary, learn_library, normalised
from fourfold.serving.engine.engine import Engine

PAINT = {"dog": "red", "cat": "blue", "horse": "white", "car": "yellow"}


def scene(seed: int, *things: str) -> tuple[Image.Image, dict[str, Box]]:
    """A noisy picture of 64 x 64 with a square of two patches a side for each thing, in its colour."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed).integers(60, 120, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    corners = rng.sample([(0, 0), (32, 0), (0, 32), (32, 32)], len(things))
    boxes = {}
    for thing, (left, top) in zip(things, corners, strict=True):
        picture.paste(PAINT.get(thing, thing), (left, top, left + 32, top + 32))
        boxes[thing] = Box(left / 64, top / 64, (left + 32) / 64, (top + 32) / 64)
    return picture, boxes


def learnt_library(engine: Engine, pictures: int = 300, steps: int = 80) -> ReadoutLibrary:
    """Learnt from pictures of one or two of the things in `PAINT`."""
    shown, examples = [], []
    for seed in range(pictures):
        things = random.Random(1000 + seed).sample(sorted(PAINT), 1 + seed % 2)
        picture, boxes = scene(seed, *things)
        shown.append(picture)
        named = tuple(NamedThing((thing,), (boxes[thing],)) for thing in things)
        examples.append(Example(str(seed), named, vocabulary=frozenset(PAINT)))
    features = [engine.vision_features(picture) for picture in shown]
    return learn_library(examples, lambda key: normalised(features[int(key)]), "tiny", steps=steps)
