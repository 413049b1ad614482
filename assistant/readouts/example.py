"""An annotated picture, as read-outs are learnt from it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fourfold.assistant.english import related
from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts.features import distinct


@dataclass(frozen=True)
class NamedThing:
    """Something of a picture.

    Attributes:
        nouns: singular, the most usual first; all mean this thing.
        boxes: where it is; several for a group.
        colours: that it is said to have.
    """

    nouns: tuple[str, ...]
    boxes: tuple[Box, ...]
    colours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """An annotated picture.

    Attributes:
        key: of the picture; its features are asked for by it, and folds are drawn by it.
        things: what is boxed in it.
        mentioned: words that are said of it, boxed or not; none of them is absent.
        vocabulary: nouns of which every thing is boxed, so that one without a box is absent; empty for captions, which
            leave things out.
        domain: the sort of picture.
        parts: the boxes hold parts of things, which teach what patches look like, but not how large things are.
    """

    key: str
    things: tuple[NamedThing, ...]
    mentioned: frozenset[str] = frozenset()
    vocabulary: frozenset[str] = frozenset()
    domain: str = "photos"
    parts: bool = False

    @cached_property
    def boxes(self) -> Mapping[str, Sequence[Box]]:
        """All boxes of each noun."""
        found: dict[str, list[Box]] = defaultdict(list)
        for thing in self.things:
            for noun in thing.nouns:
                found[noun] += thing.boxes
        return {noun: kept for noun, boxes in found.items() if (kept := distinct(boxes))}

    @cached_property
    def colours(self) -> Mapping[str, Sequence[Box]]:
        """All boxes of each colour."""
        found: dict[str, list[Box]] = defaultdict(list)
        for thing in self.things:
            for colour in thing.colours:
                found[colour] += thing.boxes
        return {colour: kept for colour, boxes in found.items() if (kept := distinct(boxes))}

    @cached_property
    def coloured(self) -> Mapping[tuple[str, str], Sequence[Box]]:
        """All boxes of a noun and a colour."""
        found: dict[tuple[str, str], list[Box]] = defaultdict(list)
        for thing in self.things:
            for colour in thing.colours:
                for noun in thing.nouns[:1]:
                    found[noun, colour] += thing.boxes
        return {key: kept for key, boxes in found.items() if (kept := distinct(boxes))}

    def lacks(self, noun: str) -> bool:
        """Whether a noun is surely not in the picture."""
        if self.vocabulary:
            return noun in self.vocabulary and noun not in self.boxes
        return self.mentioned.isdisjoint(related(noun)) and noun not in self.boxes
