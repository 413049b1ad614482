"""What an answer claims about the picture, where that comes from and how sure it is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fourfold.assistant.grounding import Box, parse

EYES = "+eyes"
"""Ends the name under which a server offers a model that looks before it answers."""

Source = Literal["read-out", "shown once", "detector", "reader", "model", "read-out + model"]


@dataclass(frozen=True)
class Claim:
    """One thing that an answer says of the picture.

    Attributes:
        phrase: in the question's or the answer's words; "no dog" where it is said not to be there.
        box: where it is; None for what has no place.
        confidence: chance, 0..1, that it is right (of a box: that it covers the thing, IoU 0.5 or more), as measured
            on photos that nothing was learnt from; None where nothing was measured.
        source: who says so. "shown once": the read-out of a concept that a person showed.
    """

    phrase: str
    box: Box | None
    confidence: float | None
    source: Source

    def to_json(self) -> dict[str, Any]:
        """`{phrase, box: [x1, y1, x2, y2] in 0..1 or null, confidence: 0..1 or null, source}`."""
        return {
            "phrase": self.phrase,
            "box": None if self.box is None else [round(side, 4) for side in self.box.as_tuple()],
            "confidence": None if self.confidence is None else round(self.confidence, 3),
            "source": self.source,
        }


def percent(chance: float) -> str:
    """A confidence as people read it: nothing is 100 % sure."""
    return "over 99%" if chance >= 0.995 else f"{chance:.0%}"


@dataclass(frozen=True)
class Said:
    """An answer that is known before the engine is asked for it, and what it claims."""

    text: str
    claims: tuple[Claim, ...] = ()


def boxes_of(phrase: str, boxes: Iterable[Box], confidence: Iterable[float], source: Source) -> tuple[Claim, ...]:
    """A claim for each box."""
    return tuple(Claim(phrase, box, sure, source) for box, sure in zip(boxes, confidence, strict=True))


def own_claims(answer: str, phrase: str = "") -> tuple[Claim, ...]:
    """The boxes that a model wrote by itself; `phrase` names those that come without words."""
    return tuple(
        Claim(grounded.phrase or phrase, box, None, "model")
        for grounded in parse(answer).phrases
        for box in grounded.boxes
    )


def claims_read(value: Any) -> tuple[Claim, ...]:
    """Claims from `to_json`'s form, which an endpoint may send in any shape: what is none of it is left out."""
    found = []
    for entry in value if isinstance(value, list) else []:
        try:
            phrase, box, sure, source = (entry[name] for name in ("phrase", "box", "confidence", "source"))
            claim = Claim(
                str(phrase)[:200],
                None if box is None else Box(*(min(max(float(side), 0.0), 1.0) for side in box)),
                None if sure is None else min(max(float(sure), 0.0), 1.0),
                source,
            )
        except (KeyError, TypeError, ValueError):
            continue
        if source in get_args(Source):
            found.append(claim)
    return tuple(found)
