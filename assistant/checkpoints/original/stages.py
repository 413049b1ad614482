"""Which of MiniGPT-v2's three public checkpoints a file is, and what the paper reports for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAPER = "arXiv 2310.09478, first version (October 2023)"

# Top-1 accuracy in percent as the paper prints it, 7B; "zs" of the paper (not in the training data) is all but the
# first two. RefCOCO and its siblings: share of boxes with IoU of at least 0.5, validation splits.
AFTER_STAGE_2: Mapping[str, float] = {
    "okvqa": 56.9,
    "gqa": 60.3,
    "vsr": 60.6,
    "textvqa": 51.9,
    "iconvqa": 47.7,
    "vizwiz": 30.3,
    "hatefulmemes": 58.2,
    "refcoco": 88.69,
    "refcoco+": 79.97,
    "refcocog": 84.44,
}
AFTER_STAGE_3: Mapping[str, float] = {
    "okvqa": 55.9,
    "gqa": 58.8,
    "vsr": 63.3,
    "textvqa": 52.3,
    "iconvqa": 49.4,
    "vizwiz": 42.4,
    "hatefulmemes": 59.5,
}

# Data that joined the mix in the third stage only, as the paper tells.
_STAGE_3_DATA = ("llava_", "multitask_conversation", "unnatural_instruction", "flickr_")


@dataclass(frozen=True)
class Stage:
    """What a checkpoint file seems to be.

    Args:
        name: "stage 2", "stage 3", "demo" or "unknown".
        because: what says so.
        expected: benchmark → the paper's percentage; empty where the authors report none.
    """

    name: str
    because: str
    expected: Mapping[str, float] = field(default_factory=dict)


def detect_stage(path: Path, beside: Mapping[str, Any]) -> Stage:
    """Tell the public checkpoints apart by the training data in their configuration, or else by the file's name.

    Neither was seen on the public files, which are out of reach where this was written: take it as a hint.

    Args:
        path: the file.
        beside: what it holds beside the tensors; `beside["config"]["datasets"]` names the training data.
    """
    name = path.name.lower()
    if "minigptv2_checkpoint" in name or "demo" in name:
        return Stage("demo", f"the file is called {path.name}")
    config = beside.get("config")
    data = config.get("datasets") if isinstance(config, Mapping) else None
    if isinstance(data, Mapping) and data:
        third = sorted(key for key in data if str(key).startswith(_STAGE_3_DATA))
        if third:
            return Stage("stage 3", f"it was trained on {third[0]}, which joined in the third stage", AFTER_STAGE_3)
        return Stage("stage 2", "its training data has nothing of the third stage", AFTER_STAGE_2)
    for number, expected in (("2", AFTER_STAGE_2), ("3", AFTER_STAGE_3)):
        if f"stage{number}" in name or f"stage-{number}" in name or f"stage_{number}" in name:
            return Stage(f"stage {number}", f"the file is called {path.name}", expected)
    return Stage("unknown", "neither its configuration nor its name tells")
