"""Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864) as tables, and how contexts are stretched."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

FIXED = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds in which the angle of a position does not depend on how long the text is."""


def rotations(config: Any, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of every position, (context, head size / 2) float32 each.

    Args:
        config: of a language model, with transformers' names; the kind of its `rope_parameters` is one of `FIXED`.
        context: positions.
    """
    settings: Mapping[str, Any] = config.rope_parameters or {}
    size, base = config.head_dim, settings.get("rope_theta", 10000.0)
    # In float32 throughout, as the model was trained: at position 8000 the eighth digit of a frequency is seen.
    frequencies = 1 / np.float32(base) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    length = settings.get("original_max_position_embeddings") or config.max_position_embeddings
    scale = 1.0
    match settings.get("rope_type", "default"):
        case "linear":
            frequencies = frequencies / np.float32(settings["factor"])
        case "llama3":
            frequencies = _llama3(frequencies, settings, length)
        case "yarn":
            frequencies, scale = _yarn(frequencies, settings, size, base, length, config.max_position_embeddings)
    angles = np.arange(context, dtype=np.float32)[:, None] * frequencies.astype(np.float32)
    return np.cos(angles) * np.float32(scale), np.sin(angles) * np.float32(scale)


def _llama3(frequencies: np.ndarray, settings: Mapping[str, Any], length: int) -> np.ndarray:
    """Slow ones are divided by the factor, fast ones stay, and those in between are blended (Llama 3.1)."""
    turns = length * frequencies / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * frequencies / settings["factor"] + kept * frequencies


def _yarn(
    frequencies: np.ndarray, settings: Mapping[str, Any], size: int, base: float, length: int, longest: int
) -> tuple[np.ndarray, float]:
    """Frequencies, and what cosines and sines are scaled by (Peng et al. 2023, https://arxiv.org/abs/2309.00071)."""
    factor = settings.get("factor") or longest / length

    def dimension(turns: float) -> float:
        """The one that turns so often over the original length."""
        return size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = dimension(settings.get("beta_fast") or 32), dimension(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    ramp = (np.arange(size // 2, dtype=np.float32) - first) / ((last - first) or 0.001)
    stretched = np.clip(ramp, 0, 1)
    return frequencies / factor * stretched + frequencies * (1 - stretched), _yarn_scale(settings, factor)


def _yarn_scale(settings: Mapping[str, Any], factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1

    if (given := settings.get("attention_factor")) is not None:
        return given
    if (one := settings.get("mscale")) and (all_of_them := settings.get("mscale_all_dim")):
        return magnitude(one) / magnitude(all_of_them)
    return magnitude(1)
