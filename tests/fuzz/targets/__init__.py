"""What is fuzzed: a file for each door that strangers' bytes come through."""

import importlib
from pathlib import Path

from tests.fuzz.target import Target

TARGETS = {
    "images": "images:pictures",
    "isolated": "images:isolated",
    "chat": "bodies:chat",
    "decisions": "bodies:decisions",
    "responses": "bodies:responses",
    "messages": "bodies:messages",
    "predictions": "predictions:predictions",
    "corrections": "corrections:corrections",
    "boxes": "box_text:boxes",
    "templates": "templates:templates",
    "checkpoints": "checkpoints:checkpoints",
    "quantized": "checkpoints:quantized",
    "adapters": "adapters:adapters",
    "release": "sources:release",
    "parts": "sources:parts",
}
"""File and function of each target. They are imported when they are wanted, so that their coverage can be counted."""


def make(name: str, directory: Path) -> Target:
    """A target, ready to be tried.

    Args:
        name: one of `TARGETS`, or "package.module:function" of another.
        directory: for files of its own.
    """
    module, _, function = TARGETS.get(name, name).partition(":")
    place = module if "." in module else f"{__name__}.{module}"
    made: Target = getattr(importlib.import_module(place), function)(directory)
    return made
