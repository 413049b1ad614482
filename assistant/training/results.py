"""What runs came to: their log, its curve, and a table of several."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourfold.assistant.files import replacing, write_text

_SHOWN = ("caption_loss", "caption_loss_wrong_image", "existence", "existence_wrong_image", "refer_loss", "refer")


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Lines of a run's `log.jsonl`, none where there is no log yet."""
    path = directory / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def plot_curve(directory: Path, out: Path) -> None:
    """Draw training loss, held-out losses and held-out accuracies of a run over its steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), constrained_layout=True)
    lines = read_log(directory)
    if steps := [(line["step"], line["loss"]) for line in lines if "loss" in line]:
        axes[0].plot(*zip(*steps, strict=True), label="training")
    measured = defaultdict(list)
    for line in lines:
        for name, value in line.get("held_out", {}).items():
            measured[name].append((line["step"], value))
    for name, points in measured.items():
        axis = axes[1] if "_loss" in name else axes[2]
        axis.plot(*zip(*points, strict=True), "--" if "wrong" in name else "-", marker=".", label=name)
    for axis, title in zip(axes, ("training loss", "held-out loss (nats a token)", "held-out accuracy"), strict=True):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=6)
    with replacing(out) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def write_table(out: Path, rows: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write figures of variants: all to `out`/table.json, what tells them apart to `out`/table.md, which is returned.

    `finished` in a row says whether the variant was trained to its end.
    """
    columns = [
        name
        for name in dict.fromkeys(name for row in rows.values() for name in row)
        if name.rpartition("/")[2] in _SHOWN or name in ("steps", "trained_parameters")
    ]
    lines = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for variant, row in rows.items():
        cells = [f"{row[name]:.3f}" if isinstance(row.get(name), float) else str(row.get(name, "")) for name in columns]
        lines.append(f"| {variant}{'' if row['finished'] else ' (stopped)'} | " + " | ".join(cells) + " |")
    write_text(out / "table.json", json.dumps(rows, indent=2) + "\n")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    return out / "table.md"
