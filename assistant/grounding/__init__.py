"""Boxes: the typed box, its text form, reading it back from whatever any model wrote, and drawing it."""

from fourfold.assistant.grounding.answers import box_of, parse
from fourfold.assistant.grounding.arriving import parse_so_far, settled
from fourfold.assistant.grounding.box import Box
from fourfold.assistant.grounding.conventions import (
    FAMILIES,
    BoxFormat,
    Corners,
    Family,
    box_format_of,
    family_of,
    scale,
)
from fourfold.assistant.grounding.drawing import PALETTE, draw
from fourfold.assistant.grounding.grounded import Grounded, GroundedPhrase
from fourfold.assistant.grounding.markup import ONLY_NUMBERS, format_box, format_phrase
from fourfold.assistant.grounding.reading import Found, find_boxes

__all__ = [
    "FAMILIES",
    "ONLY_NUMBERS",
    "PALETTE",
    "Box",
    "BoxFormat",
    "Corners",
    "Family",
    "Found",
    "Grounded",
    "GroundedPhrase",
    "box_format_of",
    "box_of",
    "draw",
    "family_of",
    "find_boxes",
    "format_box",
    "format_phrase",
    "parse",
    "parse_so_far",
    "scale",
    "settled",
]
