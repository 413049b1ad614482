"""The course of a run, drawn."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Lines of a run's `log.jsonl`, none where there is no log yet."""
    path = directory / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def plot_curve(directories: Sequence[Path], out: Path) -> None:
    """Draw training loss, held-out losses and held-out accuracies of runs over their steps.

    Args:
        directories: of runs; one colour each where there are several.
        out: image file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), constrained_layout=True)
    for directory in directories:
        lines = read_log(directory)
        steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        label = f"{directory.name} " if len(directories) > 1 else ""
        if steps:
            axes[0].plot(*zip(*steps, strict=True), label=f"{label}training")
        looks = defaultdict(list)
        for line in lines:
            for name, value in line.get("held_out", {}).items():
                looks[name].append((line["step"], value))
        for name, points in looks.items():
            axis = axes[1] if "_loss" in name else axes[2]
            dashed = "--" if "wrong" in name else "-"
            axis.plot(*zip(*points, strict=True), dashed, marker=".", label=f"{label}{name}")
    for axis, title in zip(axes, ("training loss", "held-out loss (nats a token)", "held-out accuracy"), strict=True):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=6)
    building = out.with_name(f".{out.name}.building{out.suffix}")
    figure.savefig(building, dpi=110)
    plt.close(figure)
    building.replace(out)
