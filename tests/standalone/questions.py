"""What fourfold made of some questions, as `write_reference.py` left it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REFERENCE
from PIL import Image

_ALL = ("tiny", "square", "merged", "converted", "fourfold-mini")
NAMES = [name for name in _ALL if (REFERENCE / f"{name}.npz").is_file()]
"""Checkpoints that there are answers of."""
QUESTIONS: dict[str, tuple[list[int], str]] = json.loads((REFERENCE / "questions.json").read_text())
every_checkpoint = pytest.mark.parametrize("name", NAMES)


def directory(name: str) -> Path:
    return REFERENCE / name


def images(numbers: list[int]) -> list[Image.Image]:
    return [Image.open(REFERENCE / f"{number}.png").convert("RGB") for number in numbers]


def messages(question: str) -> list[dict[str, Any]]:
    numbers, text = QUESTIONS[question]
    content = [{"type": "image", "image": image} for image in images(numbers)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def expected(name: str, question: str, what: str) -> np.ndarray:
    """The `prompt`'s tokens, the `logits` of its last position, or the greedy `answer`'s tokens."""
    return np.load(REFERENCE / f"{name}.npz")[f"{question}: {what}"]
