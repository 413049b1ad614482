"""What `benchmarks.evaluation` measured, as Markdown tables."""

from collections.abc import Mapping
from typing import Any

_TITLES = {
    "sample-refcoco": "RefCOCO val + testB",
    "sample-refcoco+": "RefCOCO+ val + testB",
    "sample-refcocog": "RefCOCOg val + test",
    "sample-vsr": "VSR",
    "sample-okvqa": "OK-VQA",
    "photos-existence": "is it there (as POPE asks)",
    "photos-answers": "short answers",
    "photos-phrases": "phrase grounding",
    "photos-labels": "detection",
}
_CONTROLS = ("", "-blind", "-wrong-image", "-text-only")
_PROBES = ("", "-patch-shuffle", "-distractor")


def evaluation_tables(measured: Mapping[str, Any]) -> str:
    """The content of `evaluation.json` as Markdown: a table a part."""
    parts, minus = measured["parts"], measured["minus"]
    lines = [
        f"Model `{measured['model']}`, measured {measured['date'][:10]}; MiniGPT-v2's prompts, greedy, official rules, "
        f"seed {measured['seed']}. Percent; in brackets the 95 % interval, clustered by image.",
    ]
    if "sample" in parts:
        lines += ["", "**COCO sample**", "", *_with_controls(parts["sample"], minus)]
    if "photos" in parts:
        lines += ["", "**Photos, held-out split**", "", *_with_controls(parts["photos"], minus)]
        lines += ["", *_boxes(parts["photos"])] if "photos-labels" in parts["photos"] else []
    if "probes" in parts:
        lines += ["", "**Evaluator**", "", *_probes({**parts.get("photos", {}), **parts["probes"]})]
    if "beaf" in parts:
        lines += ["", "**Before and after an object is painted over**", "", *_figures(parts["beaf"]["beaf"])]
    titles = {
        "converse-referents": "**A thing described again**",
        "converse-answers": "**Doubted, given a hint, told**",
    }
    for name, result in parts.get("converse", {}).items():
        lines += ["", titles[name], "", *_figures(result)]
    return "\n".join(lines) + "\n"


def _with_controls(runs: Mapping[str, Any], minus: Mapping[str, Any]) -> list[str]:
    lines = [
        "| questions | n | with the image | no image | wrong image | question alone | image − no image |",
        "|---|---:|---|---|---|---|---|",
    ]
    for name, run in _seeing(runs):
        cells = [_percent(runs.get(name + control)) for control in _CONTROLS]
        title = f"{_TITLES[name]}, {run['metric']} (`{run['rule']}`)"
        lines.append(f"| {title} | {run['n']} | {' | '.join(cells)} | {_gain(minus.get(name, {}).get('blind'))} |")
    return lines


def _boxes(runs: Mapping[str, Any]) -> list[str]:
    """Precision and recall where several boxes may be written."""
    lines = ["| boxes at IoU 0.5 | precision | recall | F1 |", "|---|---|---|---|"]
    for name in ("photos-phrases", "photos-labels"):
        for control, title in zip(_CONTROLS[:3], ("with the image", "no image", "wrong image"), strict=True):
            if run := runs.get(name + control):
                figures = next(iter(run["rules"].values()))["sub_scores"]
                ending = "" if name == "photos-phrases" else " over all boxes"
                cells = (_percent(figures[figure + ending]) for figure in ("precision", "recall", "f1"))
                lines.append(f"| {_TITLES[name]}, {title} | {' | '.join(cells)} |")
    return lines


def _probes(runs: Mapping[str, Any]) -> list[str]:
    lines = ["| questions | n | untouched | image in shuffled pieces | after a wrong claim |", "|---|---:|---|---|---|"]
    for name, run in _seeing({key: value for key, value in runs.items() if f"{key}-patch-shuffle" in runs}):
        cells = [_percent(runs.get(name + probe)) for probe in _PROBES]
        lines.append(f"| {_TITLES[name]} | {run['n']} | {' | '.join(cells)} |")
    return lines


def _figures(result: Mapping[str, Any]) -> list[str]:
    lines = ["| figure | percent | n |", "|---|---|---:|"]
    lines += [f"| {name} | {_percent(figure)} | {figure['n']} |" for name, figure in result["figures"].items()]
    return lines


def _seeing(runs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The runs with the right image, undisturbed."""
    return [(name, run) for name, run in runs.items() if name in _TITLES]


def _percent(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    if figure["low"] is None:
        return f"{figure['value']:.1f}"
    return f"{figure['value']:.1f} [{figure['low']:.1f}, {figure['high']:.1f}]"


def _gain(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return ""
    difference = comparison["difference"]
    if difference["low"] is None:
        return f"{difference['value']:+.1f}"
    interval = f"[{difference['low']:+.1f}, {difference['high']:+.1f}]"
    return f"{difference['value']:+.1f} {interval}, p {comparison['p_value']:.3f}"
