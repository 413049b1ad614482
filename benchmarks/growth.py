"""How time and memory grow with images, turns, context and people."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure

from benchmarks.questions import SHORT, gone_on, picture, question
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling

_WORDS = "the quick brown fox jumps over the lazy dog and "
AXES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "images": ("images in the first question", (1, 2, 4, 8), (1, 2)),
    "turns": ("turns before the question", (0, 2, 4, 8, 16), (0, 2)),
    "context": ("words before the question", (50, 200, 800, 2000), (50, 200)),
    "people": ("people at once", (1, 2, 4, 8, 16), (1, 2)),
}
"""Name of an axis: what it is, the places that are measured, and those of a quick run."""


def growth(model: Path, quick: bool) -> dict[str, list[dict[str, float]]]:
    """For each axis points with `x`, seconds to the `first_token`, tokens a second of one answer, and `memory_mib`.

    Every axis has an engine of its own, and its points are taken in order: memory is the process's then, less what it
    had before the engine was loaded.
    """
    asked: dict[str, Callable[[int], list[list[dict[str, Any]]]]] = {
        "images": lambda x: [[question(SHORT, *(picture() for _ in range(x)))]],
        "turns": lambda x: [_dialogue(x)],
        "context": lambda x: [[question(_WORDS * (x // 10) + "why?")]],
        "people": lambda x: [_dialogue(0) for _ in range(x)],
    }
    found: dict[str, list[dict[str, float]]] = {}
    for axis, conversations in asked.items():
        before = psutil.Process().memory_info().rss
        found[axis] = []
        with Engine.load(model) as engine:
            engine.end_ids = frozenset()
            _answers(engine, [_dialogue(0)])
            for x in AXES[axis][2] if quick else AXES[axis][1]:
                completions = _answers(engine, conversations(x))
                point = {
                    "x": x,
                    "first_token": max(c.timings["first_token"] for c in completions),
                    "tokens_per_s": min((c.completion_tokens - 1) / c.timings["decode"] for c in completions),
                    "memory_mib": (psutil.Process().memory_info().rss - before) / 2**20,
                }
                found[axis].append(point)
    return found


def plot(found: dict[str, list[dict[str, float]]], directory: Path) -> list[Path]:
    """A picture an axis: time to the first token, speed and memory side by side."""
    directory.mkdir(parents=True, exist_ok=True)
    curves = (("first_token", "s to first token"), ("tokens_per_s", "tokens/s of an answer"), ("memory_mib", "MiB"))
    paths = []
    for axis, points in found.items():
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        for chart, (key, label) in zip(figure.subplots(1, len(curves)), curves, strict=True):
            chart.plot([point["x"] for point in points], [point[key] for point in points], marker="o")
            chart.set(xlabel=AXES[axis][0], ylabel=label, ylim=(0, None))
            chart.grid(alpha=0.3)
        paths.append(directory / f"growth-{axis}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _answers(engine: Engine, conversations: list[list[dict[str, Any]]]) -> list[Completion]:
    return engine.generate([Request(messages, Sampling(max_tokens=17)) for messages in conversations])


def _dialogue(turns: int) -> list[dict[str, Any]]:
    messages = [question(SHORT, picture())]
    for number in range(turns):
        messages = gone_on(messages, f"It is number {number}.")
    return messages
