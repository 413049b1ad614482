"""The table of `fourfold eval run eyes`."""

from collections.abc import Mapping
from typing import Any

from fourfold.eval.report.render import figure, markdown_table, signed

_TOLD = {
    "refer": (
        "acc@0.5", "acc@0.5, nouns of the library", "acc@0.5, small", "acc@0.5, medium", "acc@0.5, large",
        "mean_iou (0..1)", "pointing", "pointing, small", "no box",
    ),
    "detection": ("precision", "recall", "absent left unboxed"),
    "count": ("accuracy", "off by one at most"),
    "existence": ("accuracy", "yes_ratio", "accuracy/adversarial"),
}  # fmt: skip


def eyes_markdown(measured: Mapping[str, Any]) -> str:
    """What `run_eyes` returns as Markdown."""
    limit = measured["limit"]
    asked = "all questions" if limit is None else f"at most {limit} questions a kind"
    lines = [
        f"Model `{measured['model']}`, measured {measured['date'][:10]}, seed {measured['seed']}, {asked}. Percent "
        "unless a unit is named; in brackets 95 % intervals, clustered by image."
    ]
    for group in measured["results"]:
        ways = group["ways"]
        lines += [
            "",
            f"### {group['kind']}, {group['source']}",
            "",
            f"{group['n']} questions; the library knows the noun of {100 * group['known']:.0f} %.",
            "",
        ]
        shown = [name for name in _TOLD[group["kind"]] if any(name in way for way in ways.values())]
        rows = [
            [name, *(figure(way[name], 2 if "0..1" in name else 1) if name in way else "-" for way in ways.values())]
            for name in shown
        ]
        rows.append(["seconds an answer (median)", *(_seconds(way["seconds"]) for way in ways.values())])
        paired = [way.get("against the model alone") for way in ways.values()]
        if any(paired):
            rows.append(["against the model alone", *(signed(one) if one else "-" for one in paired)])
            moved = [f"{one['wrong to right']} / {one['right to wrong']}" if one else "-" for one in paired]
            rows.append(["wrong to right / right to wrong", *moved])
        lines += markdown_table([group["kind"], *ways], rows)
    if measured["show_once"]:
        lines += ["", "### Shown once: COCO photos teach, VOC photos are searched", ""]
        rows = [
            [row["boxes"], figure(row["pointing"]), figure(row["acc@0.5"]), f"{row['average precision']:.2f}",
             figure(row["presence"])]
            for row in measured["show_once"]
        ]  # fmt: skip
        heads = ["boxes shown", "peak in a true box", "IoU ≥ 0.5", "photos found again (AP)", "presence right"]
        lines += markdown_table(heads, rows)
    if measured["peak_memory_mib"]:
        memory = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in measured["peak_memory_mib"].items())
        lines += ["", f"Peak memory of the process after each way: {memory}."]
    return "\n".join(lines) + "\n"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f}" if seconds < 0.1 else f"{seconds:.2f}"
