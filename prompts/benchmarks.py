"""The questions of the benchmarks, in MiniGPT-v2's words, in plain ones, and in those of other families."""

from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType

from fourfold.prompts.errors import UserError
from fourfold.prompts.pointing import POINTING

_TAGGED_SHORT = "[vqa] Based on the image, respond to this question with a short answer: {question}"
_PLAIN_SHORT = "{question}\nAnswer the question with a single word or a short phrase."
_PLAIN_BOX = "Where is this in the image: {sent}? Answer with its box as {corners}, {unit}."

# The questions of these say themselves how to answer: they end with their options, or with "Please answer yes or no."
_SAY_HOW = ("mmbench", "mmstar", "mmmu", "scienceqa", "ai2d", "seedbench", "realworldqa", "mme")
_SHORT = ("chartqa", "docvqa")

# OK-VQA, GQA, VizWiz, VSR and RefCOCO are asked as MiniGPT-v2 was. HatefulMemes had no tag; its wording here is ours.
# For the other benchmarks the short-answer form stands in; phrases are pointed at like RefCOCO's expressions.
_MINIGPT4 = {
    "okvqa": _TAGGED_SHORT,
    "gqa": _TAGGED_SHORT,
    "iconvqa": _TAGGED_SHORT,
    "textvqa": _TAGGED_SHORT,
    "pope": _TAGGED_SHORT,
    "vqav2": _TAGGED_SHORT,
    "vizwiz": _TAGGED_SHORT + " and reply 'unanswerable' when the provided information is insufficient",
    "vsr": "[vqa] Based on the image, is this statement true or false? {caption}",
    "refcoco": "[refer] give me the location of {sent}",
    "refcoco+": "[refer] give me the location of {sent}",
    "refcocog": "[refer] give me the location of {sent}",
    "phrase-grounding": "[refer] give me the location of {sent}",
    "detection": "[detection] {label}",
    "hatefulmemes": 'This is an image with the text "{text}" on it. Is it hateful? Answer yes or no.',
    **dict.fromkeys(_SHORT, _TAGGED_SHORT),
    **dict.fromkeys(_SAY_HOW, "[vqa] {question}"),
    "hallusionbench": "[vqa] {question} Please answer yes or no.",
}

# For models without task tags. `{unit}` says how the numbers of a box are meant.
_PLAIN = {
    **dict.fromkeys(("okvqa", "gqa", "iconvqa", "textvqa", "pope", "vqav2", *_SHORT), _PLAIN_SHORT),
    "vizwiz": _PLAIN_SHORT + " Answer 'unanswerable' where the image does not tell.",
    "vsr": "Is this statement about the image true or false? {caption}\nAnswer with one word.",
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog", "phrase-grounding"), _PLAIN_BOX),
    "detection": (
        "Where in the image is each {label}? Answer with one box {corners} for each of them, {unit}; "
        "answer none if there is none."
    ),
    "hatefulmemes": 'The image carries the text "{text}". Is it hateful? Answer yes or no.',
    **dict.fromkeys(_SAY_HOW, "{question}"),
    "hallusionbench": "{question} Please answer yes or no.",
}

WORDINGS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "minigpt4": MappingProxyType(_MINIGPT4),
        "plain": MappingProxyType(_PLAIN),
        # In the family's way where boxes are asked for, plainly elsewhere.
        **{family: MappingProxyType({**_PLAIN, **own}) for family, own in POINTING.items()},
    }
)
"""The ways of asking by name; each has a prompt for every benchmark."""

ABOUT_BOXES = frozenset({"refcoco", "refcoco+", "refcocog", "phrase-grounding", "detection"})
"""Benchmarks that are answered with boxes."""

BOX_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "unit": "each number a share of the image's width or height from 0 to 1",
        "percent": "each number in hundredths of the image's width or height from 0 to 100",
        "pixels": "in pixels of the image",
        "thousand": "each number in thousandths of the image's width or height from 0 to 1000",
        "thousand_yx": "y before x, each number in thousandths of the image's height or width from 0 to 1000",
        "loc": "y before x, each a location token from <loc0000> to <loc1023>",
        "resized": "in pixels of the image as you see it",
        "patches": "each the index of one of 32 x 32 patches, <patch_index_0000> to <patch_index_1023>",
    }
)
"""How the numbers of a box are meant, in words for a plain prompt."""


_CORNERS = {
    "thousand_yx": "[y1, x1, y2, x2]",
    "loc": "<loc_y1><loc_x1><loc_y2><loc_x2>",
    "patches": "its first and last patch",
}


def benchmark_prompt(benchmark: str, wording: str = "minigpt4", *, box_format: str | None = None, **fields: str) -> str:
    """The evaluation question of `benchmark`, with the sample's own words left as they are.

    Args:
        benchmark: its name.
        wording: a key of `WORDINGS`.
        box_format: a key of `BOX_UNITS`, which plain prompts for boxes need; others take no notice of it.
        **fields: the sample's text: `question`, `caption` (VSR), `sent` (an expression or phrase), `label` (detection)
            or `text` (HatefulMemes).

    Raises:
        UserError: the benchmark or the wording is unknown, the fields are not the ones it takes, or the box format is
            none that the wording can ask for.
    """
    if wording not in WORDINGS:
        raise UserError(f"no wording is called {wording!r}; there are: {', '.join(WORDINGS)}")
    try:
        form = WORDINGS[wording][benchmark]
    except KeyError:
        raise UserError(f"no benchmark is called {benchmark!r}; there are: {', '.join(_MINIGPT4)}") from None
    needed = {name for _, name, _, _ in Formatter().parse(form) if name}
    if "unit" in needed:
        if box_format is None or box_format not in BOX_UNITS:
            names = ", ".join(BOX_UNITS)
            raise UserError(f"the {wording} prompt of {benchmark} needs a box format of numbers: --box-format {names}")
        fields["unit"], fields["corners"] = BOX_UNITS[box_format], _CORNERS.get(box_format, "[x1, y1, x2, y2]")
    if needed != set(fields):
        given = ", ".join(sorted(fields)) or "nothing"
        raise UserError(f"the prompt of {benchmark} takes {', '.join(needed)}; got {given}")
    return form.format(**fields)
