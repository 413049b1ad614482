"""The experiments' rows as a Markdown table and as curves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.assistant.files import replacing, write_text
from fourfold.eval.experiments.arms import CURVE
from fourfold.eval.report.render import figure, markdown_table, signed

Row = Mapping[str, Any]


def write_table(rows: Sequence[Row], out: Path) -> None:
    """Write `table.md`, and `curve.png` where something was measured at more than one number of corrections."""
    if not rows:
        return
    write_text(out / "table.md", table_markdown(rows))
    if len({row["count"] for row in rows if row["arm"] in CURVE}) > 1:
        plot_curve(rows, out / "curve.png")


def table_markdown(rows: Sequence[Row]) -> str:
    """A section a subject, a row an arm and number of corrections."""
    lines = [
        "Percent; in brackets the change against the model as it was shipped, with its 95 % interval, paired by "
        "question and clustered by image. “Untouched” pools all kinds of the card that were asked; beside it the kind "
        "that lost most.",
    ]
    for subject, some in _by_subject(rows).items():
        related = [name for name in some[0]["slices"] if name.startswith("related ")]
        asked = ("corrected", "held out", "alike", *related)
        heads = ["arm", "corrections", *asked, "untouched", "lost most", "CPU min", "steps", "adapter"]
        shipped = [_value(some[0]["slices"].get(name), "before") for name in asked[1:]]
        cells = [["as shipped", 0, "", *shipped, _value(some[0]["untouched"], "before"), "", "", "", ""]]
        arms = list(dict.fromkeys(row["arm"] for row in some))
        for row in sorted(some, key=lambda row: (row["count"], arms.index(row["arm"]))):
            cells.append([
                row["arm"],
                row["count"],
                *(_change(row["slices"].get(name)) for name in asked),
                _change(row["untouched"]),
                _lost_most(row),
                figure(row.get("cpu_minutes")),
                row.get("steps", ""),
                f"{row['adapter_bytes'] / 1e6:.1f} MB" if row.get("adapter_bytes") else "",
            ])  # fmt: skip
        lines += ["", f"### {subject}", "", *markdown_table(heads, cells)]
    return "\n".join(lines) + "\n"


def plot_curve(rows: Sequence[Row], path: Path) -> None:
    """Accuracy over the number of corrections: held-out questions, and dashed the untouched ones; a panel a subject."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    subjects = _by_subject([row for row in rows if row["arm"] in CURVE])
    canvas, panels = pyplot.subplots(1, len(subjects), figsize=(4.2 * len(subjects), 3.6), sharey=True, squeeze=False)
    for panel, (subject, some) in zip(panels[0], subjects.items(), strict=True):
        ticks = sorted({row["count"] for row in some})
        for arm in [name for name in CURVE if any(row["arm"] == name for row in some)]:
            mine = sorted((row for row in some if row["arm"] == arm), key=lambda row: row["count"])
            held = [mine[0]["slices"]["held out"]["before"]] + [row["slices"]["held out"]["after"] for row in mine]
            rest = [mine[0]["untouched"]["before"]["value"]] + [row["untouched"]["after"]["value"] for row in mine]
            places = [0, *(1 + ticks.index(row["count"]) for row in mine)]
            values = [one["value"] for one in held]
            # An interval that ends at its value may miss it by a rounding.
            ends = [(one["value"] - one["low"], one["high"] - one["value"]) for one in held]
            reach = [[max(0.0, down) for down, _ in ends], [max(0.0, up) for _, up in ends]]
            (line,) = panel.plot(places, rest, linestyle="--", linewidth=1)
            panel.errorbar(places, values, yerr=reach, color=line.get_color(), marker="o", capsize=3, label=arm)
        panel.set_title(subject)
        panel.set_xticks(range(len(ticks) + 1), ["0", *map(str, ticks)])
        panel.set_xlabel("corrections")
        panel.set_ylim(-2, 102)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("held-out questions right, %\n(dashed: untouched questions)")
    panels[0][0].legend(fontsize=8)
    canvas.tight_layout()
    with replacing(path) as building:
        canvas.savefig(building, dpi=130)
    pyplot.close(canvas)


def _by_subject(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["subject"]].append(row)
    return dict(found)


def _value(part: Row | None, when: str) -> str:
    return "" if part is None else f"{part[when]['value']:.1f}"


def _change(part: Row | None) -> str:
    return "" if part is None else f"{part['after']['value']:.1f} ({signed(part['change'])})"


def _lost_most(row: Row) -> str:
    kinds = {name: part["change"] for name, part in row["slices"].items() if "/" in name}
    if not kinds:
        return ""
    name = min(kinds, key=lambda kind: kinds[kind]["difference"]["value"])
    return f"{name} {signed(kinds[name])}"
