"""What the figures come to: each against its yardstick, and the tables of docs/performance.md and README.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, ratio
from benchmarks.growth import plot
from benchmarks.questions import ROOT
from fourfold.assistant.files import write_text
from fourfold.eval.report.render import markdown_table

_RATIOS = """
decode_vs_limit | decode fourfold | | one answer's tokens a second, of the limit by memory bandwidth | ≥ 0.6
decode_vs_generate | decode fourfold | decode generate, float32 | … of transformers' `generate` | –
decode_vs_llama_cpp | decode fourfold | decode llama.cpp | … of llama.cpp's with the same SmolLM2 in 4 bit | ≥ 1
decode_vs_vllm_cpu | alone fourfold | alone vllm | … of vLLM's on this CPU, both over HTTP | ≥ 2
followup_ttft | follow_up | first | time to the first token of a second question, of the first one's | ≤ 0.25
concurrent8_vs_transformers_serve | 8 at once fourfold | 8 at once transformers serve \
| 8 short questions at once, of `transformers serve` | ≥ 5
concurrent8_vs_vllm_cpu | 8 at once fourfold | 8 at once vllm | … of vLLM's on this CPU | ≥ 1
decisions_vs_chats | decisions | ten chats \
| ten yes/no questions about each picture by `/v1/decisions`, of ten chat completions at once | –
preprocess_share | preprocess | first | preparing a 12-megapixel JPEG, of the time to the first token | ≤ 0.10
cold_start | cold start chat | cold start floor \
| `fourfold chat`, of importing torch and transformers and reading the weights | ≤ 2
memory_vs_transformers_serve | memory fourfold | memory transformers serve \
| resident memory of the server, of `transformers serve` | ≤ 1
startup_vs_transformers_serve | startup fourfold | startup transformers serve \
| the server's start, of `transformers serve` | ≤ 1
"""
RATIOS = {name: told for name, *told in ([*map(str.strip, line.split("|"))] for line in _RATIOS.strip().splitlines())}
"""Each ratio: our figure, its yardstick ("" for the figure's own limit), what it is in words, what was asked of it."""
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
SERVERS = {"fourfold": "fourfold", "transformers serve": "`transformers serve`", "vllm": "vLLM (CPU), our model class"}


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


def write_pages(result: Mapping[str, Any], root: Path = ROOT) -> None:
    """Put the result's tables between the marks of docs/performance.md and README.md, and draw the plots."""
    plots = plot(result["growth"], root / "docs" / "images")
    _replace(root / "docs" / "performance.md", "measured", [*measured(result), *_pictures(plots)])
    _replace(root / "README.md", "speed", [conditions(result), "", *servers(result)])


def conditions(result: Mapping[str, Any]) -> str:
    """When, where and with what it was measured."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return (
        f"{result['date']}, {machine['processor']} ({', '.join(machine['flags'])}), {machine['cores']} cores "
        f"({machine['threads']} used), load before {machine['load_before']:.1f}; medians of {result['rounds']} rounds "
        f"taken in turns, {result['tokens']} tokens a long answer{' (a quick run)' if result['quick'] else ''}. "
        f"{versions}."
    )


def servers(result: Mapping[str, Any]) -> list[str]:
    """The table of servers, line by line; the best of each column in bold."""
    rows = []
    values = {(what, server): result["figures"][f"{what} {server}"]["value"] for what in COLUMNS for server in SERVERS}
    for server, title in SERVERS.items():
        cells = []
        for what, (_, decimals, best) in COLUMNS.items():
            value = values[what, server]
            measured = [values[what, other] for other in SERVERS if values[what, other] is not None]
            cell = "–" if value is None else f"{value:.{decimals}f}"
            cells.append(f"**{cell}**" if value is not None and value == best(measured) else cell)
        rows.append([title, *cells])
    headings = [heading for heading, *_ in COLUMNS.values()]
    return markdown_table(["", *headings], rows, numbers=range(1, len(COLUMNS) + 1))


def measured(result: Mapping[str, Any]) -> Iterator[str]:
    """Everything, line by line."""
    memory, matmul = (max(result["limits"][name]["runs"]) for name in ("memory", "matmul"))
    yield conditions(result)
    yield f"Limits: memory {memory:.1f} GB/s, float32 matrix products {matmul:.0f} GFLOP/s."
    yield ""
    yield from servers(result)
    quotients = []
    for name, (*_, words, wanted) in RATIOS.items():
        value = result["ratios"].get(name)
        cell = f"**{value:.2f}**" if value is not None else f"– ({result['reasons'].get(name, 'not measured')})"
        quotients.append([words, cell, wanted])
    yield from ("", *markdown_table(["ratio", "here", "wanted"], quotients, numbers=(1, 2)), "")
    rows = [_row(name, figure) for name, figure in result["figures"].items()]
    yield from markdown_table(["figure", "median", "runs", "limit", "of the limit"], rows, numbers=(1, 3, 4))


def _row(name: str, figure: Mapping[str, Any]) -> list[str]:
    if figure["value"] is None:
        return [name, "–", figure["reason"], "", ""]
    runs = " ".join(f"{run:.3g}" for run in figure["runs"])
    limit, share = "", ""
    if figure["limit"] is not None:
        limit = f"{figure['limit']:.3g} ({figure['limit_is']})"
        # Of a rate the part that is reached; of a time how many times the least.
        share = f"{figure['value'] / figure['limit']:.2f}"
    return [name, f"{figure['value']:.3g} {figure['unit']}", runs, limit, share]


def _pictures(plots: list[Path]) -> Iterator[str]:
    yield from ("", "How time, speed and memory grow (the default model):")
    for path in plots:
        yield from ("", f"![{path.stem.replace('-', ' with ')}](images/{path.name})")


def _replace(page: Path, mark: str, lines: list[str]) -> None:
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    write_text(page, "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{rest.split(end)[1]}"]))
