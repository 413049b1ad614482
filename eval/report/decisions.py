"""How good probabilities are: as tables, and as reliability diagrams."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fourfold.assistant.files import replacing
from fourfold.eval.report.render import figure, markdown_table

RELIABILITY = "reliability.png"
"""The diagrams' file, beside the tables."""
_COLUMNS = {"image": "with the image", "wrong-image": "wrong image", "blind": "no image"}
_SERIES = (
    ("image", "calibrated", "calibrated", "C0", "o"),
    ("image", "raw", "raw", "C1", "s"),
    ("blind", "calibrated", "no image", "0.6", "^"),
)


def decisions_markdown(decisions: Mapping[str, Any]) -> Iterator[str]:
    """Lines: a row a figure of a kind of question, a column a control.

    Args:
        decisions: of `measure_decisions`.
    """
    temperatures = decisions["temperatures"]
    yield "### Probabilities of decisions"
    yield ""
    if temperatures:
        told = ", ".join(f"{kind} {value:.2f}" for kind, value in temperatures.items())
        yield f"Temperatures, of the checkpoint: {told}."
    else:
        yield "This checkpoint has no temperatures: its probabilities are raw (`fourfold train calibrate` fits them)."
    yield (
        "Brier score: 0 is perfect; two options at one half each have 0.5. ECE: mean distance between predicted and "
        f"observed frequency in ten bins. Diagrams with intervals: {RELIABILITY}."
    )
    rows, controls = [], []
    for source, kinds in decisions["sources"].items():
        for kind, found in kinds.items():
            controls = list(found)
            first = next(iter(found.values()))
            for name in first["raw"]["figures"]:
                for state in ["calibrated", "raw"] if name != "accuracy" else ["raw"]:
                    if state not in first:
                        continue
                    cells = [_cell(name, found[control][state]["figures"][name]) for control in controls]
                    shown = name if name == "accuracy" else f"{name}, {state}"
                    rows.append([f"{kind}, {source}", shown, first["raw"]["figures"][name]["n"], *cells])
    yield ""
    yield from markdown_table(["questions", "figure", "n", *(_COLUMNS[control] for control in controls)], rows)


def _cell(name: str, estimate: Mapping[str, Any]) -> str:
    if name != "accuracy":
        return figure(estimate, 3)
    scaled = {key: None if estimate[key] is None else estimate[key] for key in ("value", "low", "high")}
    return figure(scaled)


def draw_reliability(decisions: Mapping[str, Any], path: Path) -> None:
    """A diagram for each source and kind of question: observed against predicted frequency, with 95 % intervals.

    Args:
        decisions: of `measure_decisions`.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    panels = [(source, kind) for source, kinds in decisions["sources"].items() for kind in kinds]
    columns = max(len(kinds) for kinds in decisions["sources"].values())
    rows = len(decisions["sources"])
    drawn = Figure(figsize=(3.2 * columns, 3.3 * rows), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for source, kind in panels:
        row = list(decisions["sources"]).index(source)
        axis = axes[row][list(decisions["sources"][source]).index(kind)]
        axis.set_visible(True)
        axis.plot([0, 1], [0, 1], color="0.85", linewidth=1)
        found = decisions["sources"][source][kind]
        for control, state, label, colour, marker in _SERIES:
            bins = found.get(control, {}).get(state, {}).get("reliability", ())
            if not bins:
                continue
            x, y = [one["predicted"] for one in bins], [one["observed"] for one in bins]
            below, above = ([abs(one[side] - one["observed"]) for one in bins] for side in ("low", "high"))
            axis.errorbar(
                x, y, (below, above), color=colour, marker=marker, markersize=4, linewidth=1, capsize=2, label=label
            )
        axis.set(title=f"{kind}, {source}", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.set_xlabel("P(yes)" if kind == "predicate" else "P of the likeliest answer")
        axis.set_ylabel("how often it was so")
    axes[0][0].legend(fontsize="small", frameon=False)
    with replacing(path) as part:
        drawn.savefig(part, dpi=110)
