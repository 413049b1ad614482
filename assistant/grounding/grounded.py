"""A text read for its boxes: phrases, what was malformed, and the words for people."""

import re
from dataclasses import dataclass

from fourfold.assistant.grounding.box import Box


@dataclass(frozen=True)
class GroundedPhrase:
    """Words of an answer with their boxes.

    Attributes:
        phrase: the words between `<p>` and `</p>`; None for a box that came without.
        boxes: at least one.
        start, end: the span of the words and their boxes in `Grounded.text`.
    """

    phrase: str | None
    boxes: tuple[Box, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Grounded:
    """A text read for its boxes.

    Attributes:
        text: the text that the spans index: the input, html-unescaped.
        phrases: in the order of the text.
        malformed: what looked like a box and was none, as written.
        plain: the text without any box markup, for people.
    """

    text: str
    phrases: tuple[GroundedPhrase, ...]
    malformed: tuple[str, ...]
    plain: str

    @property
    def boxes(self) -> tuple[Box, ...]:
        """All boxes, with a phrase or without, in the order of the text."""
        return tuple(box for phrase in self.phrases for box in phrase.boxes)

    @property
    def segments(self) -> tuple[str | GroundedPhrase, ...]:
        """The text in order, cut into words without boxes (as written) and phrases with boxes."""
        pieces: list[str | GroundedPhrase] = []
        cursor = 0
        for grounded in self.phrases:
            pieces += [self.text[cursor : grounded.start], grounded]
            cursor = grounded.end
        pieces.append(self.text[cursor:])
        return tuple(piece for piece in pieces if piece != "")


def tidy(words: str) -> str:
    """Close the gaps that removed markup left: no double spaces, no space before a full stop or comma."""
    words = re.sub(r"[ \t]{2,}", " ", words)
    return re.sub(r"[ \t]+(?=[.,;:!?](?:\s|$))", "", words).strip()
