"""An answer's boxes and the words that they belong to, as the canvas draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fourfold.assistant.chat.look_again import subject
from fourfold.assistant.grounding import Box, Grounded
from fourfold.serving.looking.claim import Claim, percent

_SAME = 0.011
"""Sides of a box that was written in hundredths differ from the one it was by less than this."""


@dataclass(frozen=True)
class BoxAnnotation:
    """A box on the canvas."""

    box: Box
    label: str | None = None  # the words beside it
    group: int = 0  # boxes of one group share a colour and are shown and hidden together
    looked: bool = False  # a place that was looked at again, drawn with a broken line
    note: str | None = None  # who says so and how sure it is

    @classmethod
    def read(cls, entry: Any) -> "BoxAnnotation | None":
        """A box from the browser, which may send anything; None where it is none."""
        try:
            label, group = entry["label"], int(entry["group"])
            box = Box(*(min(max(float(side), 0.0), 1.0) for side in entry["box"]))
        except (KeyError, TypeError, ValueError):
            return None
        words = str(label).strip()[:200] if label else ""
        return cls(box, words or None, group)


def annotate(
    answer: Grounded, question: str = "", claims: Sequence[Claim] = ()
) -> tuple[list[dict[str, Any]], list[BoxAnnotation]]:
    """The answer's text in pieces, `{"text": str}` with `"group": int` where boxes belong to them, and its boxes.

    The same words, said twice, are one group and share its colour. Boxes that come without words are called what the
    question asks for. What the endpoint claims of a box is noted on it. Of an answer without boxes, "I count 2 dogs.",
    they are those of its claims.
    """
    thing = subject(question) if question else None
    known: dict[str, int] = {}
    pieces: list[dict[str, Any]] = []
    boxes: list[BoxAnnotation] = []
    for place, segment in enumerate(answer.segments):
        if isinstance(segment, str):
            pieces.append({"text": segment})
            continue
        group = known.setdefault((segment.phrase or f"\0{place}").casefold(), len(known))
        if segment.phrase is not None:
            pieces.append({"text": segment.phrase, "group": group})
        for box in segment.boxes:
            boxes.append(BoxAnnotation(box, segment.phrase or thing, group, note=_note_of(box, claims)))
    if not boxes:
        for claim in claims:
            if claim.box is not None:
                group = known.setdefault(claim.phrase.casefold(), len(known))
                boxes.append(BoxAnnotation(claim.box, claim.phrase, group, note=note(claim)))
    return pieces, boxes


def note(claim: Claim) -> str:
    """Who says so and how sure it is: "read-out, 83 % sure"."""
    if claim.confidence is None:
        return "the model's guess" if claim.source == "model" else claim.source
    return f"{claim.source}, {percent(claim.confidence)} sure".replace("%", "\u202f%")


def _note_of(box: Box, claims: Sequence[Claim]) -> str | None:
    for claim in claims:
        if claim.box is not None and all(
            abs(a - b) < _SAME for a, b in zip(claim.box.as_tuple(), box.as_tuple(), strict=True)
        ):
            return note(claim)
    return None
