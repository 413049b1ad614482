"""Putting runs side by side: headline, what blindness costs, by type, paired comparison, and the samples."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from fourfold.assistant.files import write_text
from fourfold.eval.report.render import figure, markdown_table, page, shown_picture, signed
from fourfold.eval.report.reported import SOURCE, TRAINED_ON, reported
from fourfold.eval.statistics import Paired, paired
from fourfold.prompts.errors import UserError

_OF_HEADLINE = ("metric", "rule", "value", "low", "high", "n", "clusters", "missing", "parse_failures", "refusals")


@dataclass(frozen=True)
class RunFolder:
    """What `fourfold eval run` left in a folder."""

    path: Path
    configuration: dict[str, Any]
    result: dict[str, Any]
    samples: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Read it; UserError where it holds no finished run."""
        try:
            result = json.loads((path / "result.json").read_text(encoding="utf-8"))
            samples = json.loads((path / "samples.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path} holds no finished run ({Path(error.filename).name} is missing)") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path} holds a damaged run: {error}") from None
        return cls(path, result["configuration"], result, samples)

    @property
    def name(self) -> str:
        """Model (with the first eight digits of its fingerprint), and control and probe where there are any."""
        model, at, fingerprint = self.configuration["model"].partition("@")
        changes = [self.configuration[key] for key in ("control", "probe") if self.configuration[key] != "none"]
        return ", ".join([model + at + fingerprint[:8], *changes])

    @cached_property
    def scores(self) -> dict[str, tuple[float, str]]:
        """Sample id -> headline score 0..1 and image."""
        return {one["id"]: (one["score"], one["image"]) for one in self.samples if one.get("score") is not None}


def compare(first: RunFolder, second: RunFolder) -> tuple[Paired, int] | None:
    """Second against first on the samples that both have, and how many these are; None for different benchmarks."""
    if first.configuration["benchmark"] != second.configuration["benchmark"]:
        return None
    common = [identifier for identifier in first.scores if identifier in second.scores]
    if not common:
        return None
    images = [first.scores[identifier][1] for identifier in common]
    values = [[run.scores[identifier][0] for identifier in common] for run in (first, second)]
    return paired(values[0], values[1], images), len(common)


def build_report(folders: Sequence[Path]) -> dict[str, Any]:
    """The report as one JSON-ready object; `write_report` makes pages of it.

    Raises:
        UserError: a folder holds no finished run, or none is given.
    """
    if not folders:
        raise UserError("name at least one folder of a run")
    runs = [RunFolder.read(folder) for folder in folders]
    return {
        "headline": [_headline(run, runs) for run in runs],
        "comparisons": _comparisons(runs),
        "runs": [_run(run) for run in runs],
        "reported_source": SOURCE,
    }


def _headline(run: RunFolder, runs: Sequence[RunFolder]) -> dict[str, Any]:
    benchmark = run.configuration["benchmark"]
    row = {
        "folder": str(run.path),
        "name": run.name,
        **{key: run.configuration[key] for key in ("benchmark", "model", "control", "probe")},
        "zero_shot_in_paper": benchmark not in TRAINED_ON,
        **{key: run.result[key] for key in _OF_HEADLINE},
        "reported": reported(benchmark),
    }
    if run.configuration["control"] == "none":
        for other in runs:
            same = all(other.configuration[key] == run.configuration[key] for key in ("benchmark", "model", "probe"))
            found = compare(other, run) if same and other.configuration["control"] != "none" else None
            if found:
                row.setdefault("minus", {})[other.configuration["control"]] = asdict(found[0])
    return row


def _comparisons(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    rows = []
    for first, second in combinations(runs, 2):
        if found := compare(first, second):
            outcome, common = found
            row = {
                "benchmark": first.configuration["benchmark"],
                "first": first.name,
                "second": second.name,
                "common": common,
                "left_out": max(len(first.scores), len(second.scores)) - common,
            }
            rows.append(row | asdict(outcome))
    return rows


def _run(run: RunFolder) -> dict[str, Any]:
    # Failures first, else in the file's order, so that a reader finds samples again.
    ordered = sorted(run.samples, key=lambda one: -1.0 if one.get("score") is None else float(one["score"]))
    return {
        "name": run.name,
        "benchmark": run.configuration["benchmark"],
        "configuration": run.configuration,
        "files": run.result["files"],
        "rules": run.result["rules"],
        "samples": ordered,
    }


def write_report(report: dict[str, Any], out: Path, *, shown: int = 60) -> list[Path]:
    """Write `report.html`, `report.md` and `report.json`; the page shows at most `shown` samples of a run."""
    written = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
        "report.md": _markdown(report),
        "report.html": _html(report, shown),
    }
    for name, text in written.items():
        write_text(out / name, text)
    return [out / name for name in written]


def _html(report: dict[str, Any], shown: int) -> str:
    benchmarks: dict[str, list[dict[str, Any]]] = {}
    for row in report["headline"]:
        benchmarks.setdefault(row["benchmark"], []).append(row)
    for rows in benchmarks.values():
        rows.sort(key=lambda row: row["control"] != "none")  # with their own image first
    runs = []
    for run in report["runs"]:
        samples = [{**one, "picture": shown_picture(one["shown_file"])} for one in run["samples"][:shown]]
        wrong = sum(not one.get("score") or one["score"] < 0.5 for one in samples)
        headline = next(iter(run["rules"].values()))
        groups = [  # the sub-scores that are percents with an interval, for bars
            {"name": name, **value}
            for name, value in headline["sub_scores"].items()
            if isinstance(value, dict) and "(0..1)" not in name
        ]
        runs.append({**run, "shown": samples, "groups": groups, "wrong": wrong})
    return page("runs.html.jinja", report=report, benchmarks=benchmarks, runs=runs)


def _markdown(report: dict[str, Any]) -> str:
    """Headline, reported numbers, comparisons and every rule's figures as tables."""
    rows = []
    for row in report["headline"]:
        gains = [signed(row.get("minus", {}).get(control)) for control in ("blind", "wrong-image")]
        told = [row[name] for name in ("name", "benchmark", "metric", "rule")]
        rows.append([*told, figure(row), row["n"], *gains, row["parse_failures"], row["missing"]])
    heads = ["run", "benchmark", "metric", "rule", "result (95 %)", "n", "− blind", "− wrong image"]
    lines = ["# Evaluation", "", *markdown_table([*heads, "unread", "missing"], rows)]
    lines += ["", f"Beside them, {report['reported_source']} (not measured here):", ""]
    for benchmark, numbers in {row["benchmark"]: row["reported"] for row in report["headline"]}.items():
        lines.append(f"- {benchmark}: {', '.join(f'{name} {value}' for name, value in numbers.items()) or 'none'}")
    if report["comparisons"]:
        heads = ["benchmark", "first", "second", "difference (95 %)", "p (sign flips)", "better", "worse", "samples"]
        rows = [
            [row["benchmark"], row["first"], row["second"], signed(row), f"{row['p_value']:.4f}",
             row["better"], row["worse"], row["common"]]
            for row in report["comparisons"]
        ]  # fmt: skip
        lines += ["", "## Paired comparison", "", *markdown_table(heads, rows)]
    for run in report["runs"]:
        rules = run["rules"].values()
        rows = [[f"**{next(iter(rules))['metric']}**", *map(figure, rules)]]
        for name in dict.fromkeys(name for rule in rules for name in rule["sub_scores"]):
            digits = 3 if "(0..1)" in name else 1
            rows.append([name, *(figure(rule["sub_scores"].get(name), digits) for rule in rules)])
        lines += ["", f"## {run['benchmark']}: {run['name']}", "", *markdown_table(["figure", *run["rules"]], rows)]
    return "\n".join(lines) + "\n"
