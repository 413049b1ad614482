"""What the figures come to: each against its yardstick, kept by kind of processor, and the tables of the docs.

python -m benchmarks.speed.report        # write the tables of docs/performance.md and README.md from benchmarks/results
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.figures import Figure, ratio
from benchmarks.questions import ROOT
from benchmarks.speed.side_by_side import CROWD_FIGURES, CROWDS, FIRST_TOKEN_BOUND
from fourfold.assistant.files import write_text
from fourfold.eval.report.render import markdown_table

RESULTS = ROOT / "benchmarks" / "results"


class Ratio(NamedTuple):
    """Our figure divided by its yardstick.

    Attributes:
        ours: a figure's name.
        yardstick: another's; "" for the figure's own limit.
        better: which direction is good.
        wanted: the value to reach.
        words: what it is.
    """

    ours: str
    yardstick: str
    better: Literal["higher", "lower"]
    wanted: float
    words: str

    @property
    def aim(self) -> str:
        return f"{'≥' if self.better == 'higher' else '≤'} {self.wanted:g}"

    def met(self, value: float) -> bool:
        return value >= self.wanted if self.better == "higher" else value <= self.wanted


_PEER = "transformers serve"
RATIOS = {
    "alone_vs_transformers_serve": Ratio(
        "1 at once fourfold", f"1 at once {_PEER}", "higher", 1, "one question at a time, of `transformers serve`"
    ),
    "decode_vs_limit": Ratio(
        "decode fourfold", "", "higher", 0.6, "one answer's tokens a second, of the limit by memory bandwidth"
    ),
    "decode_vs_vllm_cpu": Ratio("alone fourfold", "alone vllm", "higher", 2, "… of vLLM's on this CPU, both over HTTP"),
    "decode_vs_llama_cpp": Ratio(
        "decode fourfold", "decode llama.cpp", "higher", 1.05, "… of llama.cpp's with the same SmolLM2 in 4 bit"
    ),
    "followup_ttft": Ratio(
        "follow_up", "first", "lower", 0.25, "time to the first token of a second question, of the first one's"
    ),
    "concurrent8_vs_transformers_serve": Ratio(
        "8 at once fourfold", f"8 at once {_PEER}", "higher", 3, "8 short questions at once, of `transformers serve`"
    ),
    "concurrent8_vs_vllm_cpu": Ratio("8 at once fourfold", "8 at once vllm", "higher", 1.5, "… of vLLM's on this CPU"),
    "preprocess_share": Ratio(
        "preprocess", "first", "lower", 0.1, "preparing a 12-megapixel JPEG, of the time to the first token"
    ),
    "cold_start": Ratio(
        "cold start chat",
        "cold start floor",
        "lower",
        2,
        "`fourfold chat`, of importing torch and transformers and reading the weights",
    ),
    "memory_vs_transformers_serve": Ratio(
        "memory fourfold", f"memory {_PEER}", "lower", 1, "resident memory of the server, of `transformers serve`"
    ),
    "startup_vs_transformers_serve": Ratio(
        "startup fourfold", f"startup {_PEER}", "lower", 1, "the server's start, of `transformers serve`"
    ),
}
COLUMNS = {
    "first token": ("first token, s", 2, min),
    "follow-up": ("follow-up, first token, s", 2, min),
    "alone": ("alone, tokens/s", 0, max),
    "8 at once, long": ("8 long answers at once, tokens/s", 0, max),
    "8 at once": ("8 short ones at once, answers/s", 1, max),
    "startup": ("start-up, s", 1, min),
    "memory": ("memory, MiB", 0, min),
}
"""Of the table of servers: a figure, its heading, decimals, and which is the best."""
SERVERS = {"fourfold": "fourfold", _PEER: "`transformers serve`", "vllm": "vLLM (CPU), our model class"}


def ratios(figures: Mapping[str, Figure]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Our figures divided by their yardsticks, by the names of `RATIOS`; and why those that are None are."""
    found: dict[str, float | None] = {}
    reasons = {}
    for name, (ours, yardstick, *_) in RATIOS.items():
        figure = figures[ours]
        if yardstick:
            found[name] = ratio(figure, figures[yardstick])
        else:
            found[name] = None if figure.value is None or figure.limit is None else figure.value / figure.limit
        if found[name] is None:
            reasons[name] = figure.reason or (yardstick and figures[yardstick].reason) or "nothing was measured"
    return found, reasons


def verdicts(found: Mapping[str, float | None], reasons: Mapping[str, str]) -> Iterator[str]:
    """A line a ratio for the terminal: its value, the one that is wanted, and whether it is reached."""
    for name, one in RATIOS.items():
        value = found[name]
        if value is None:
            yield f"{name:36}      –  {one.aim:7} {reasons[name]}"
        else:
            yield f"{name:36} {value:6.2f}  {one.aim:7} {'reached' if one.met(value) else 'missed'}"


def keep(result: Mapping[str, Any], results: Path = RESULTS) -> Path:
    """Put what the tables need of a result, its ratios and medians, under the name of the kind of processor."""
    kept = {name: result[name] for name in ("date", "commit", "quick", "rounds", "tokens", "machine", "versions")}
    medians = {
        name: {key: figure[key] for key in ("value", "unit", "limit", "limit_is", "reason") if figure[key]}
        for name, figure in result["figures"].items()
    }
    limits = {name: max(figure["runs"]) for name, figure in result["limits"].items()}
    kept |= {"limits": limits, "ratios": result["ratios"], "reasons": result["reasons"], "figures": medians}
    path = results / f"{result['machine']['kind']}.json"
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return path


def kept_results(results: Path = RESULTS) -> list[dict[str, Any]]:
    """Everything that was kept: kind by kind, what was measured before the last change first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")]
    return sorted(found, key=lambda one: (one["machine"]["kind"], "before" not in one, one["date"]))


def write_pages(root: Path = ROOT) -> None:
    """Put the tables of all kept results between the marks of docs/performance.md; of the newest, of README.md."""
    found = kept_results(root / "benchmarks" / "results")
    put_between(root / "docs" / "performance.md", "measured", measured(found))
    newest = max((one for one in found if _has_servers(one)), key=lambda one: ("before" not in one, one["date"]))
    put_between(root / "README.md", "speed", [conditions(newest), "", *servers(newest)])


def conditions(result: Mapping[str, Any]) -> str:
    """When, where and with what it was measured."""
    if "before" in result:
        return str(result["before"])
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items() if number)
    return (
        f"{result['date']}, commit {result['commit']}, {machine['processor']} ({', '.join(machine['flags'])}), "
        f"{machine['cores']} cores ({machine['threads']} used), load before {machine['load_before']:.1f}; medians of "
        f"{result['rounds']} rounds taken in turns, {result['tokens']} tokens a long answer"
        f"{' (a quick run)' if result['quick'] else ''}. {versions}."
    )


def servers(result: Mapping[str, Any]) -> list[str]:
    """The table of servers, line by line; the best of each column in bold."""
    rows = []
    values = {(what, server): _value(result, f"{what} {server}") for what in COLUMNS for server in SERVERS}
    for server, title in SERVERS.items():
        cells = []
        for what, (_, decimals, best) in COLUMNS.items():
            value = values[what, server]
            found = [one for other in SERVERS if (one := values[what, other]) is not None]
            cell = "–" if value is None else f"{value:.{decimals}f}"
            cells.append(f"**{cell}**" if value is not None and value == best(found) else cell)
        rows.append([title, *cells])
    headings = [heading for heading, *_ in COLUMNS.values()]
    return markdown_table(["", *headings], rows, numbers=range(1, len(COLUMNS) + 1))


def clients(result: Mapping[str, Any]) -> list[str]:
    """The table of many clients at once, line by line."""
    rows = []
    for people in CROWDS:
        for server, title in SERVERS.items():
            names = [f"{people} at once", *(f"{people} at once, {what}" for what in CROWD_FIGURES)]
            values = [_value(result, f"{name} {server}") for name in names]
            rows.append([str(people), title, *("–" if value is None else f"{value:.3g}" for value in values)])
    good = f"goodput: first token within {FIRST_TOKEN_BOUND:g} s, answers/s"
    head = ["clients", "", "answers/s", good, "first token, median, s", "longest, s", "failed"]
    return markdown_table(head, rows, numbers=(0, *range(2, 7)))


def measured(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Everything, line by line: a column a kind of processor, then the tables of each."""
    head = ["ratio", "wanted", *(f"{_title(one)}, {one['date']}" for one in results)]
    rows = [[one.words, one.aim, *(_cell(result, name) for result in results)] for name, one in RATIOS.items()]
    yield from markdown_table(head, rows, numbers=range(1, 2 + len(results)))
    for result in results:
        yield from ("", f"**{_title(result)}**: {conditions(result)}")
        if "limits" in result:
            memory, matmul = (result["limits"][name] for name in ("memory", "matmul"))
            yield f"Limits: memory {memory:.1f} GB/s, float32 matrix products {matmul:.0f} GFLOP/s."
        if not _has_servers(result):
            continue
        yield from ("", *servers(result))
        if "before" in result:
            continue
        yield from ("", *clients(result), "")
        others = {
            name: figure
            for name, figure in result["figures"].items()
            if not name.endswith(tuple(f" {server}" for server in SERVERS)) or name.startswith("decode ")
        }
        rows = [_row(name, figure) for name, figure in others.items()]
        yield from markdown_table(["figure", "median", "limit", "of the limit"], rows, numbers=(1, 3))


def _title(result: Mapping[str, Any]) -> str:
    return f"`{result['machine']['kind']}`{' before' if 'before' in result else ''}"


def _cell(result: Mapping[str, Any], name: str) -> str:
    value = result["ratios"].get(name)
    if value is None:
        reason = result["reasons"].get(name)
        return f"– ({reason})" if reason else "–"
    return f"**{value:.2f}**" if RATIOS[name].met(value) else f"{value:.2f}"


def _value(result: Mapping[str, Any], name: str) -> float | None:
    figure = result["figures"].get(name, {})
    if figure.get("reason"):
        return None
    return figure.get("value", 0.0) if figure else None


def _has_servers(result: Mapping[str, Any]) -> bool:
    return _value(result, "8 at once fourfold") is not None


def _row(name: str, figure: Mapping[str, Any]) -> list[str]:
    if figure.get("reason"):
        return [name, f"– ({figure['reason']})", "", ""]
    value, limit, share = figure["value"], "", ""
    if "limit" in figure:
        limit = f"{figure['limit']:.3g} ({figure['limit_is']})"
        # Of a rate the part that is reached; of a time how many times the least.
        share = f"{value / figure['limit']:.2f}"
    return [name, f"{value:.3g} {figure['unit']}", limit, share]


def put_between(page: Path, mark: str, lines: Iterator[str] | list[str]) -> None:
    """Exchange what stands in a page between the two comments of a mark."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    write_text(page, "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{rest.split(end)[1]}"]))


if __name__ == "__main__":
    write_pages()
