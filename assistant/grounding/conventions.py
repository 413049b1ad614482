"""Everybody's conventions: in which numbers a model writes a box, and which model writes in which."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

Corners = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


class BoxFormat(StrEnum):
    """What the numbers of a box mean; declared, or known by the model's name, never guessed from the truth.

    TOKENS is `{<x1><y1><x2><y2>}` with integers 0..100 (MiniGPT-v2, Fourfold) and nothing else. All others are read in
    whichever way they are written (`reading`): UNIT 0..1, PERCENT 0..100, PIXELS of the image as it is, THOUSAND
    0..1000, THOUSAND_YX 0..1000 with y first, LOC 0..1023 with y first (`<loc0512>`), RESIZED pixels of the image as
    the model's own processor resized it, PATCHES the indices of the first and the last of Kosmos-2's 32 x 32 patches,
    `<patch_index_0044>`, or what its processor makes of them, shares 0..1.
    """

    TOKENS = "tokens"
    UNIT = "unit"
    PERCENT = "percent"
    PIXELS = "pixels"
    THOUSAND = "thousand"
    THOUSAND_YX = "thousand_yx"
    LOC = "loc"
    RESIZED = "resized"
    PATCHES = "patches"

    @property
    def y_first(self) -> bool:
        """Whether a box is written y1, x1, y2, x2, and a point y, x."""
        return self in (BoxFormat.THOUSAND_YX, BoxFormat.LOC)

    @property
    def needs_size(self) -> bool:
        """Whether the numbers mean nothing without the image's size."""
        return self in (BoxFormat.PIXELS, BoxFormat.RESIZED)


_WHOLE = {
    BoxFormat.TOKENS: 100,
    BoxFormat.UNIT: 1,
    BoxFormat.PERCENT: 100,
    BoxFormat.THOUSAND: 1000,
    BoxFormat.THOUSAND_YX: 1000,
    BoxFormat.LOC: 1024,
    BoxFormat.PATCHES: 1,
}
"""What stands for the whole width or height, where that is the same for every image."""


PATCHES_A_SIDE = 32
"""Kosmos-2's grid."""


def scale(corners: Sequence[float], box_format: BoxFormat, width: int, height: int) -> Corners | None:
    """Corners as written (x1, y1, x2, y2; `reading` has put them in this order) in pixels of the image.

    With a width and height of 1, shares of the image become 0..1.

    Returns:
        None where the corners are the wrong way round, or a share lies beyond the image. Pixels are not cut off.
    """
    x1, y1, x2, y2 = corners
    if not (x1 <= x2 and y1 <= y2):
        return None
    if box_format is BoxFormat.PIXELS:
        return x1, y1, x2, y2
    if box_format is BoxFormat.RESIZED:
        wide, high = resized(width, height)
        return x1 / wide * width, y1 / high * height, x2 / wide * width, y2 / high * height
    whole = _WHOLE[box_format]
    if x1 < 0 or y1 < 0 or x2 > whole or y2 > whole:
        return None
    return x1 / whole * width, y1 / whole * height, x2 / whole * width, y2 / whole * height


@lru_cache(maxsize=4096)
def resized(width: int, height: int) -> tuple[int, int]:
    """Width and height that Qwen2.5-VL's image processor gives an image, by transformers' own rule.

    Its published limits are 3136 and 12845056 pixels. Another `max_pixels` of a server shows only on larger images.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    try:
        high, wide = smart_resize(height, width, factor=28, min_pixels=56 * 56, max_pixels=16384 * 28 * 28)
    except ValueError:  # a strip of more than 200 to 1, which the processor refuses
        return width, height
    return wide, high


@dataclass(frozen=True)
class Family:
    """Models that write boxes alike.

    Attributes:
        name: as `prompts.benchmarks` calls its way of being asked.
        known_by: what a model's name holds, in small letters and digits only.
        box_format: in which numbers it writes.
        written: an answer of its kind; where pixels matter, about a picture of 640 x 428.
    """

    name: str
    known_by: tuple[str, ...]
    box_format: BoxFormat
    written: str


_IN_TAGS = "<ref>dog</ref><box>"

# The first that fits a name is taken, so longer names stand before those that they begin with.
FAMILIES: tuple[Family, ...] = (
    Family("minigpt4", ("fourfold", "minigptv2", "minigpt4"), BoxFormat.TOKENS, "<p>dog</p> {<12><30><56><80>}"),
    Family(
        "qwen2.5-vl",
        ("qwen25vl", "qwen25omni", "mimovl"),
        BoxFormat.RESIZED,
        '[{"bbox_2d": [77, 126, 361, 336], "label": "dog"}]',
    ),
    Family(
        "qwen3-vl",
        ("qwen3vl", "qwen3omni", "qwen35"),
        BoxFormat.THOUSAND,
        '[{"bbox_2d": [120, 300, 560, 800], "label": "dog"}]',
    ),
    Family(
        "qwen2-vl",
        ("qwen2vl", "qvq"),
        BoxFormat.THOUSAND,
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(120,300),(560,800)<|box_end|>",
    ),
    Family("qwen-vl", ("qwenvl",), BoxFormat.THOUSAND, f"{_IN_TAGS}(120,300),(560,800)</box>"),
    Family("internvl", ("internvl", "interns1"), BoxFormat.THOUSAND, f"{_IN_TAGS}[[120, 300, 560, 800]]</box>"),
    Family("cogvlm", ("cogvlm", "cogagent"), BoxFormat.THOUSAND, "[[120,300,560,800]]"),
    Family(
        "glm-v",
        ("glm4v", "glm41v", "glm45v", "glm46v"),
        BoxFormat.THOUSAND,
        "<|begin_of_box|>[[120,300,560,800]]<|end_of_box|>",
    ),
    Family(
        "deepseek-vl2",
        ("deepseekvl2", "deepseekocr"),
        BoxFormat.THOUSAND,
        "<|ref|>dog<|/ref|><|det|>[[120, 300, 560, 800]]<|/det|>",
    ),
    Family("florence", ("florence",), BoxFormat.THOUSAND, "dog<loc_120><loc_300><loc_560><loc_800>"),
    Family("minicpm-v", ("minicpmv", "minicpmo"), BoxFormat.THOUSAND, f"{_IN_TAGS}120 300 560 800</box>"),
    Family("seed-vl", ("seed15vl", "seed16", "doubao"), BoxFormat.THOUSAND, "<bbox>120 300 560 800</bbox>"),
    Family("ferret", ("ferret",), BoxFormat.THOUSAND, "dog [120, 300, 560, 800]"),
    Family("molmo2", ("molmo2",), BoxFormat.THOUSAND, '<points coords="1 1 340 550">dog</points>'),
    Family("molmo", ("molmo",), BoxFormat.PERCENT, '<point x="34.0" y="55.0" alt="dog">dog</point>'),
    Family("gemini", ("gemini",), BoxFormat.THOUSAND_YX, '[{"box_2d": [300, 120, 800, 560], "label": "dog"}]'),
    Family("paligemma", ("paligemma",), BoxFormat.LOC, "<loc0307><loc0123><loc0819><loc0573> dog"),
    Family("moondream", ("moondream",), BoxFormat.UNIT, '{"x_min": 0.12, "y_min": 0.3, "x_max": 0.56, "y_max": 0.8}'),
    Family(
        "kosmos-2",
        ("kosmos2",),
        BoxFormat.PATCHES,
        "<phrase>dog</phrase><object><patch_index_0291><patch_index_0817></object>",
    ),
    Family("llava", ("llava", "shikra", "sphinx", "ovis"), BoxFormat.UNIT, "[0.12, 0.30, 0.56, 0.80]"),
)
"""Which model writes how. What is not here has to be declared."""


def family_of(model: str) -> Family | None:
    """The family that a model's name tells, `Qwen/Qwen3-VL-8B-Instruct` or `qwen3-vl:8b`; None where none is known."""
    bare = re.sub(r"[^a-z0-9]", "", model.lower())
    return next((family for family in FAMILIES if any(mark in bare for mark in family.known_by)), None)


def box_format_of(model: str | None) -> BoxFormat:
    """How the model of this name writes boxes; TOKENS where that is not known."""
    family = family_of(model) if model else None
    return family.box_format if family else BoxFormat.TOKENS
