"""Draws `docs/images/house.png`, the picture of docs/architecture.md: `python docs/sources/draw_house.py [OUT.png]`."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch

ROOMS = (
    ("fourfold/cli", "the command line, a file a verb; it puts the rooms together", "#e8e8ec"),
    ("ui", "the page:  views/  what it shows · state/  what it remembers and does · canvas/  boxes", "#f6d6c8"),
    (
        "eval",
        "task · model · run · log · benchmarks/ · scorers/ · tasks/ · score · gate · report/ · experiments/",
        "#f8e7b9",
    ),
    ("serving", "api/  HTTP · engine/  scheduler, KV cache, decoder · vllm/", "#cfe6c9"),
    ("assistant", "", "#c9dff0"),
    ("prompts", "tasks and their tags · chat templates · LangChain prompts · errors for people", "#dcd2ec"),
)
"""From the top down: each stands on those below it, and imports from them alone."""
INSIDE = (
    ("model/", "ViT, fold, projector,\nLLaMA; processor"),
    ("checkpoints/", "the default model;\nthe original, converted"),
    ("training/", "the one trainer,\nits data"),
    ("chat/", "history, streaming,\na second look"),
    ("refine/", "corrections, memory,\nadapters, registry"),
)
FLOW = (
    "image + words",
    "prompt",
    "ViT, four tokens into one, projector, LLaMA",
    "text",
    "phrases and boxes",
    "page, metric, correction",
)
INK, QUIET = "#222222", "#666666"
WIDTH, STOREY, TALL = 12.0, 0.72, 1.75


def main(out: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(11.6, 6.4), dpi=110)
    axes.set(xlim=(-0.1, WIDTH + 0.9), ylim=(-1.35, 5 * (STOREY + 0.12) + TALL + 0.1))
    axes.axis("off")
    bottom = 0.0
    for name, holds, colour in reversed(ROOMS):
        height = TALL if name == "assistant" else STOREY
        _box(axes, 0, bottom, WIDTH, height, colour)
        axes.text(0.2, bottom + height - 0.36, f"{name}/", fontsize=13, fontweight="bold", color=INK, va="center")
        if name == "assistant":
            outside = "images/  one type for an image · grounding/  boxes · database.py · files.py"
            axes.text(2.25, bottom + height - 0.36, outside, fontsize=9.5, color=INK, va="center")
            width = (WIDTH - 0.4 - 0.15 * 4) / 5
            for place, (room, what) in enumerate(INSIDE):
                left = 0.2 + place * (width + 0.15)
                _box(axes, left, bottom + 0.12, width, 0.98, "white")
                axes.text(left + 0.12, bottom + 0.88, room, fontsize=10.5, fontweight="bold", color=INK, va="center")
                axes.text(left + 0.12, bottom + 0.44, what, fontsize=8.5, color=QUIET, va="center")
        else:
            axes.text(2.25, bottom + height - 0.36, holds, fontsize=9.5, color=INK, va="center")
        bottom += height + 0.12
    arrow = {"arrowstyle": "->", "color": QUIET}
    axes.annotate("", (WIDTH + 0.25, 0.1), (WIDTH + 0.25, bottom - 0.2), arrowprops=arrow)
    axes.text(WIDTH + 0.45, bottom / 2, "imports", fontsize=10, color=QUIET, ha="center", va="center", rotation=270)
    axes.text(0, -0.42, "What flows through it", fontsize=10.5, fontweight="bold", color=INK)
    left = 0.0
    for place, what in enumerate(FLOW):
        text = axes.text(left, -0.85, what, fontsize=9.5, color=INK, va="center")
        left = text.get_window_extent().transformed(axes.transData.inverted()).x1 + 0.55
        if place + 1 < len(FLOW):
            axes.annotate("", (left - 0.12, -0.85), (left - 0.43, -0.85), arrowprops=arrow)
    again = "a correction becomes a memory at once, and with others an adapter that is gated before it answers"
    axes.text(0, -1.25, again, fontsize=9, color=QUIET, va="center")
    figure.savefig(out, bbox_inches="tight", pad_inches=0.08)


def _box(axes: pyplot.Axes, left: float, bottom: float, width: float, height: float, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle=style, facecolor=colour, edgecolor="none"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "images" / "house.png")
