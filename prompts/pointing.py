"""How families of models are asked for boxes: each in the words that it was taught or documented with."""

from collections.abc import Mapping
from types import MappingProxyType

_ONE = ("refcoco", "refcoco+", "refcocog", "phrase-grounding")
_REGION = "Please provide the bounding box coordinate of the region this sentence describes: {sent}"
_REF = "Please provide the bounding box of <ref>{sent}</ref>."
_SHARES = "with each number a share of the image's width or height from 0 to 1"

# Family -> how one thing is asked for, and how all of a kind.
_FAMILIES: dict[str, tuple[str, str]] = {
    "qwen3-vl": (
        "Locate {sent}, output its bbox coordinates using JSON format.",
        "Locate every {label} in the image, output their bbox coordinates using JSON format.",
    ),
    "qwen2.5-vl": (
        "Locate {sent}, output its bbox coordinates using JSON format.",
        "Locate every {label} in the image, output their bbox coordinates using JSON format.",
    ),
    "qwen2-vl": ("Detect the bounding box of {sent}.", "Detect the bounding box of every {label}."),
    "qwen-vl": (_REF, "Please provide the bounding box of every <ref>{label}</ref>."),
    "internvl": (
        _REGION.replace("{sent}", "<ref>{sent}</ref>"),
        "Please detect and label every {label} in the following image and mark their positions.",
    ),
    "cogvlm": (
        "Where is {sent}? answer in [[x0,y0,x1,y1]] format.",
        "Where is every {label}? answer in [[x0,y0,x1,y1]] format.",
    ),
    "glm-v": (
        "Help me to locate {sent} in the image and give me its bounding boxes.",
        "Help me to locate every {label} in the image and give me their bounding boxes.",
    ),
    "deepseek-vl2": ("<|ref|>{sent}<|/ref|>.", "Locate <|ref|>{label}<|/ref|> in the given image."),
    "florence": ("<CAPTION_TO_PHRASE_GROUNDING>{sent}", "<OPEN_VOCABULARY_DETECTION>{label}"),
    "minicpm-v": (_REF, "Please provide the bounding box of every <ref>{label}</ref>."),
    "seed-vl": (
        "Frame {sent} in the image and answer with <bbox>x1 y1 x2 y2</bbox>.",
        "Frame every {label} in the image and answer with a <bbox>x1 y1 x2 y2</bbox> for each.",
    ),
    "ferret": ("What is the location of {sent} in the image?", "What are the locations of every {label} in the image?"),
    "molmo2": ("Point to {sent}.", "Point to every {label}."),
    "molmo": ("Point to {sent}.", "Point to every {label}."),
    "gemini": (
        'Detect {sent}. Output a JSON list with one entry, the 2D bounding box in "box_2d" as [ymin, xmin, ymax, xmax] '
        'normalized to 0-1000 and the text label in "label".',
        'Detect every {label}. Output a JSON list where each entry has the 2D bounding box in "box_2d" as '
        '[ymin, xmin, ymax, xmax] normalized to 0-1000 and the text label in "label".',
    ),
    "paligemma": ("detect {sent}\n", "detect {label}\n"),
    "moondream": (
        f"Where is {{sent}}? Answer with JSON of x_min, y_min, x_max and y_max, {_SHARES}.",
        f"Where is every {{label}}? Answer with a JSON list of x_min, y_min, x_max and y_max, {_SHARES}.",
    ),
    "kosmos-2": ("<grounding><phrase>{sent}</phrase>", "<grounding><phrase>{label}</phrase>"),
    "llava": (_REGION, f"Where is every {{label}}? Answer with boxes [x1, y1, x2, y2], {_SHARES}."),
}

POINTING: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        family: MappingProxyType({**dict.fromkeys(_ONE, one), "detection": every})
        for family, (one, every) in _FAMILIES.items()
    }
)
"""Family -> benchmark -> the question; only benchmarks that are answered with boxes."""
