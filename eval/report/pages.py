"""The report as HTML and as Markdown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2


def html_page(report: dict[str, Any], shown: int, thumbnail: Callable[[str | None], str | None]) -> str:
    """One file without any outside part: styles, images and bars are in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = figure
    environment.filters["signed"] = _signed
    environment.filters["percent_box"] = _percent_box
    runs = []
    for run in report["runs"]:
        samples = [{**one, "picture": thumbnail(one["shown_file"])} for one in run["samples"][:shown]]
        wrong = sum(not one.get("score") or one["score"] < 0.5 for one in samples)
        runs.append({**run, "shown": samples, "groups": _groups(run), "wrong": wrong})
    return environment.get_template("page.html.jinja").render(
        report=report, benchmarks=_by_benchmark(report), runs=runs
    )


def _by_benchmark(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The headline rows of each benchmark, runs with their own image first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in report["headline"]:
        found.setdefault(row["benchmark"], []).append(row)
    return {name: sorted(rows, key=lambda row: row["control"] != "none") for name, rows in found.items()}


def _groups(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The headline rule's sub-scores that are percents with an interval, for bars."""
    headline = next(iter(run["rules"].values()))
    return [
        {"name": name, **value}
        for name, value in headline["sub_scores"].items()
        if isinstance(value, dict) and "(0..1)" not in name
    ]


def _percent_box(box: list[float], size: list[int]) -> dict[str, float]:
    """A pixel box as left, top, width and height in percent of the image."""
    x1, y1, x2, y2 = box
    width, height = size
    return {
        "left": 100 * x1 / width,
        "top": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
    }


def figure(estimate: dict[str, Any] | float | None, digits: int = 1) -> str:
    """`46.9 [45.6, 48.2]`; signs are kept, an absent figure is empty."""
    if estimate is None:
        return ""
    if isinstance(estimate, (int, float)):
        return f"{estimate:.{digits}f}"
    text = f"{estimate['value']:.{digits}f}"
    if estimate.get("low") is None:
        return text
    return f"{text} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"


def markdown_page(report: dict[str, Any]) -> str:
    """Headline, reported numbers, comparisons and every rule's figures as tables."""
    lines = ["# Evaluation", ""]
    lines += ["| run | benchmark | metric | rule | result (95 %) | n | − blind | − wrong image | unread | missing |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for row in report["headline"]:
        minus = row.get("minus", {})
        gains = [_signed(minus.get(control)) for control in ("blind", "wrong-image")]
        lines.append(
            f"| {row['name']} | {row['benchmark']} | {row['metric']} | {row['rule']} | {figure(row)} | {row['n']} "
            f"| {' | '.join(gains)} | {row['parse_failures']} | {row['missing']} |"
        )
    lines += ["", f"Beside them, {report['reported_source']} (not measured here):", ""]
    for benchmark, numbers in {row["benchmark"]: row["reported"] for row in report["headline"]}.items():
        told = ", ".join(f"{name} {value}" for name, value in numbers.items()) or "none"
        lines.append(f"- {benchmark}: {told}")
    if report["comparisons"]:
        lines += ["", "## Paired comparison", ""]
        lines += ["| benchmark | first | second | difference (95 %) | p (sign flips) | better | worse | samples |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for row in report["comparisons"]:
            lines.append(
                f"| {row['benchmark']} | {row['first']} | {row['second']} | {_signed(row)} | {row['p_value']:.4f} "
                f"| {row['better']} | {row['worse']} | {row['common']} |"
            )
    for run in report["runs"]:
        lines += ["", f"## {run['benchmark']}: {run['name']}", ""]
        rules = run["rules"]
        lines += [f"| figure | {' | '.join(rules)} |", "|---" * (len(rules) + 1) + "|"]
        metric = next(iter(rules.values()))["metric"]
        names = dict.fromkeys(name for rule in rules.values() for name in rule["sub_scores"])
        lines.append(f"| **{metric}** | {' | '.join(figure(rule) for rule in rules.values())} |")
        for name in names:
            cells = [figure(rule["sub_scores"].get(name), 3 if "(0..1)" in name else 1) for rule in rules.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _signed(comparison: dict[str, Any] | None) -> str:
    """The difference of a paired comparison, `+3.1 [-0.2, +6.4]`."""
    if comparison is None:
        return ""
    difference = comparison["difference"]
    text = f"{difference['value']:+.1f}"
    if difference["low"] is None:
        return text
    return f"{text} [{difference['low']:+.1f}, {difference['high']:+.1f}]"
