"""A library that sees what a test says, in place of read-outs that were learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts.library import Finding
from fourfold.assistant.tools.results import Count

DOG, CAT = Box(0.1, 0.2, 0.5, 0.6), Box(0.6, 0.1, 0.9, 0.5)


def finding(
    noun: str, *boxes: tuple[Box, float], presence: float = 0.9, source: str = "read-out", phrase: str = ""
) -> Finding:
    """A finding of these boxes, each with its confidence."""
    return Finding(
        phrase=phrase or noun,
        noun=noun,
        boxes=tuple(box for box, _ in boxes),
        confidence=tuple(sure for _, sure in boxes),
        presence=presence,
        source=source,
        map=np.arange(16, dtype=np.float32).reshape(4, 4),
        point=(0.5, 0.5),
    )


@dataclass(frozen=True)
class ScriptedLibrary:
    """Finds what `things` holds by the last word of a phrase that is in it; asked for one, it gives the surest."""

    things: Mapping[str, Finding]
    concepts: tuple[str, ...] = ()
    tower: str = "scripted"
    seen: list[np.ndarray] = field(default_factory=list)
    paint: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)

    def find(self, features: np.ndarray, phrase: str, *, several: bool = False) -> Finding | None:
        self.seen.append(features)
        words = phrase.lower().split()
        shown = [self.things[name.lower()] for name in self.concepts if name.lower() in phrase.lower()]
        found = next((self.things[word] for word in reversed(words) if word in self.things), None)
        found = shown[0] if shown else found
        found = found or next((self.things[word[:-1]] for word in words if word[:-1] in self.things), None)
        if found is None or several:
            return found
        return replace(found, boxes=found.boxes[:1], confidence=found.confidence[:1])

    def read(self, phrase: str) -> str | None:
        return next((word for word in phrase.lower().split() if word in self.things), None)

    def colours(self, features: np.ndarray, phrase: str, image: object = None) -> list[tuple[str, float]]:
        return list(self.paint.get(phrase.split()[-1], ()))

    def with_concepts(self, concepts: Sequence[Finding]) -> "ScriptedLibrary":
        things = {**self.things, **{concept.noun.lower(): concept for concept in concepts}}
        return replace(self, things=things, concepts=tuple(concept.noun for concept in concepts))


@dataclass(frozen=True)
class ScriptedDetector:
    """Finds as many of each noun as it has chances for."""

    chances: Mapping[str, Sequence[float]]

    def detect(self, image: Image.Image, noun: str) -> list[tuple[Box, float]] | None:
        known = self.chances.get(noun.removesuffix("s"))
        return None if known is None else [(DOG, chance) for chance in known]

    def everything(self, image: Image.Image) -> list[tuple[str, Box, float]]:
        return [(noun, DOG, chance) for noun, chances in self.chances.items() for chance in chances]

    def count(self, image: Image.Image, noun: str) -> Count:
        found = self.detect(image, noun)
        if found is None:
            return Count(noun=noun, label=None, number=None)
        return Count(noun=noun, label=noun, number=len(found), boxes=tuple(box for box, _ in found))
