"""What a soak came to, from the lines that it wrote: a killed one has a summary too."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fourfold.assistant.files import replacing
from fourfold.eval.report.render import markdown_table

WARM_UP = 1 / 3
"""Part of the run in which caches fill and which no slope is taken of."""
MIB = 2**20
PERCENTILES = (50, 95, 99)


class Slope(NamedTuple):
    """Of a straight line through samples: per hour, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def slope(hours: Sequence[float], values: Sequence[float]) -> Slope | None:
    """By least squares; None below 10 samples.

    Samples of one process follow each other closely, so that they tell less than their number n says: the standard
    error is that of n (1 - r) / (1 + r) independent ones, where r is the residuals' correlation from one to the next.
    """
    if len(hours) < 10:
        return None
    x, y = np.asarray(hours) - np.mean(hours), np.asarray(values, float)
    spread = float(x @ x)
    gradient = float(x @ y) / spread
    left = y - y.mean() - gradient * x
    power = float(left @ left)
    r = min(max(float(left[1:] @ left[:-1]) / power, 0.0), 0.99) if power else 0.0
    independent = max(len(x) * (1 - r) / (1 + r), 3.0)
    error = math.sqrt(power / (independent - 2) / spread)
    reach = NormalDist().inv_cdf(0.975) * error
    return Slope(gradient, gradient - reach, gradient + reach)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSONL file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def percentiles(values: Iterable[float]) -> dict[str, float] | None:
    """p50, p95 and p99; None where there are no values."""
    found = list(values)
    if not found:
        return None
    return {f"p{at}": round(float(np.percentile(found, at)), 3) for at in PERCENTILES}


def windows(requests: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Time to the first words in windows of so many seconds: `minute` of its middle, `answers`, p50, p95, p99."""
    groups: dict[int, list[float]] = {}
    for told in requests:
        if told["first"] is not None:
            groups.setdefault(int(told["at"] // seconds), []).append(told["first"])
    return [
        {"minute": (number + 0.5) * seconds / 60, "answers": len(found), **(percentiles(found) or {})}
        for number, found in sorted(groups.items())
    ]


def summarise(out: Path) -> dict[str, Any]:
    """Figures of the lines in a folder, which may be those of a run that was killed."""
    requests, samples, events = (read_lines(out / f"{name}.jsonl") for name in ("requests", "samples", "events"))
    about = json.loads((out / "about.json").read_text(encoding="utf-8"))
    if not samples:
        raise SystemExit(f"nothing was sampled in {out}")
    seconds = samples[-1]["at"]
    steady = [sample for sample in samples if sample["at"] >= WARM_UP * seconds]
    hours = [sample["at"] / 3600 for sample in steady]
    slopes = {
        name: slope(hours, [sample[name] / unit for sample in steady])
        for name, unit in (("resident", MIB), ("open_files", 1), ("threads", 1), ("temporary_files", 1))
    }
    statuses = Counter(str(told["status"]) for told in requests)
    bad = [told for told in requests if not expected(told)]
    last = samples[-1]
    window = max(60.0, seconds / 20)
    return {
        **about,
        "minutes": round(seconds / 60, 1),
        "requests": len(requests),
        "by_client": {
            name: {
                "requests": sum(told["client"] == name for told in requests),
                "first_token_s": percentiles(
                    told["first"] for told in requests if told["client"] == name and told["first"] is not None
                ),
            }
            for name in sorted({told["client"] for told in requests})
        },
        "statuses": dict(statuses),
        "server_errors": sum(told["status"] == "broken" or str(told["status"]).startswith("5") for told in requests),
        "not_expected": bad[:20],
        "first_token_s": percentiles(told["first"] for told in requests if told["first"] is not None),
        "windows": windows(requests, window),
        "from_memory": sum(told["note"] == "from memory" for told in requests),
        "events": dict(Counter(event["what"] for event in events)),
        "event_troubles": [event for event in events if event.get("trouble")],
        "resident_mib": {
            "at_the_end_of_warm_up": round(steady[0]["resident"] / MIB, 1),
            "last": round(last["resident"] / MIB, 1),
            "most": round(max(sample["resident"] for sample in samples) / MIB, 1),
        },
        "slopes_per_hour": {name: found and [round(v, 3) for v in found] for name, found in slopes.items()},
        "resident_flat": slopes["resident"] and slopes["resident"].low <= 0 <= slopes["resident"].high,
        "last": {name: value for name, value in last.items() if name != "resident"},
        "processor_share": round(last["processor_seconds"] / seconds, 2),
    }


def table(found: dict[str, Any]) -> list[str]:
    """Markdown of a summary: a line on the run, and its figures."""
    first = found["first_token_s"] or {}
    last, events = found["last"], found["events"]

    def per_hour(name: str, unit: str) -> str:
        told = found["slopes_per_hour"][name]
        return f"{told[0]:+.1f} {unit} an hour ({told[1]:+.1f} to {told[2]:+.1f})" if told else "not enough samples"

    memory = found["resident_mib"]
    grown = f"{memory['at_the_end_of_warm_up']:.0f} MiB after warm-up, {memory['last']:.0f} at the end"
    rows = [
        ["requests", f"{found['requests']:,}: " + ", ".join(f"{n:,} × {s}" for s, n in found["statuses"].items())],
        ["errors (5xx, broken connections)", found["server_errors"]],
        ["answers that were wrong, and other statuses", len(found["not_expected"])],
        ["first words, p50 / p95 / p99", " / ".join(f"{first.get(f'p{at}')}" for at in PERCENTILES) + " s"],
        ["resident memory", grown],
        ["… its slope after warm-up", per_hour("resident", "MiB")],
        ["open files, slope", f"{last['open_files']}, {per_hour('open_files', '')}"],
        ["threads, slope", f"{last['threads']}, {per_hour('threads', '')}"],
        ["temporary files at the end", last["temporary_files"]],
        ["adapters promoted / rolled back", f"{events.get('promote', 0)} / {events.get('rollback', 0)}"],
        ["corrections / things shown once", f"{events.get('corrected', 0)} / {events.get('shown', 0)}"],
        ["… remembered and asked again", found["from_memory"]],
        ["what of these failed", len(found["event_troubles"])],
        ["stores", f"{last['store'] / MIB:.1f} MiB, conversations {last['history'] / MIB:.2f} MiB"],
        ["processor", f"{100 * found['processor_share']:.0f} % of a core"],
    ]
    return [
        f"{found['began']}, commit {found['commit']}, {found['model']}, {found['minutes']:.0f} minutes, one thread, "
        f"{found['cores']} cores, load before {found['load_before']:.1f}:",
        "",
        *markdown_table(["", ""], rows),
    ]


def expected(told: dict[str, Any]) -> bool:
    """Whether a request ended as it may: answered, left by its client, or asked of an adapter that was taken away."""
    return told["status"] in (200, "left") or (told["status"] == 404 and told["note"] == "its adapter was rolled back")


def plot(out: Path, summary: dict[str, Any], path: Path) -> None:
    """First words, memory with its line, files and threads, and stores, over the minutes of the run."""
    samples, events = read_lines(out / "samples.jsonl"), read_lines(out / "events.jsonl")
    minutes = [sample["at"] / 60 for sample in samples]
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    (first, memory), (counts, stores) = figure.subplots(2, 2, sharex=True)
    for at in PERCENTILES:
        line = [(window["minute"], window[f"p{at}"]) for window in summary["windows"]]
        first.plot(*zip(*line, strict=True), marker=".", label=f"p{at}") if line else None
    first.set(ylabel="s to the first words", ylim=(0, None))
    memory.plot(minutes, [sample["resident"] / MIB for sample in samples], linewidth=1, label="resident")
    if line := summary["slopes_per_hour"]["resident"]:
        steady = [s for s in samples if s["at"] >= WARM_UP * samples[-1]["at"]]
        middle_x = float(np.mean([s["at"] / 3600 for s in steady]))
        middle_y = float(np.mean([s["resident"] / MIB for s in steady]))
        ends = [steady[0]["at"] / 3600, steady[-1]["at"] / 3600]
        label = f"{line[0]:+.0f} MiB an hour ({line[1]:+.0f} to {line[2]:+.0f})"
        memory.plot([60 * x for x in ends], [middle_y + line[0] * (x - middle_x) for x in ends], label=label)
    for event in events:
        if event["what"] in ("promote", "rollback"):
            memory.axvline(event["at"] / 60, color="0.85", linewidth=0.6, zorder=0)
    memory.set(ylabel="MiB (grey: adapters changed)", ylim=(0, None))
    for name, label in (
        ("open_files", "open files"),
        ("threads", "threads"),
        ("temporary_files", "temporary files"),
        ("children", "child processes"),
    ):
        counts.plot(minutes, [sample[name] for sample in samples], linewidth=1, label=label)
    counts.set(ylabel="of the server", xlabel="minutes", ylim=(0, None))
    for name, label in (("store", "corrections and adapters"), ("history", "conversations"), ("log", "log")):
        stores.plot(minutes, [sample[name] / MIB for sample in samples], linewidth=1, label=label)
    stores.set(ylabel="MiB on the disk", xlabel="minutes", ylim=(0, None))
    for chart in (first, memory, counts, stores):
        chart.grid(alpha=0.3)
        chart.legend(fontsize=7)
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
