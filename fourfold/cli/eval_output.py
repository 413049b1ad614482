"""What `fourfold eval` prints: figures as tables for people, as one JSON object for programs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fourfold.eval.score import Result
    from fourfold.eval.statistics import Estimate


def show_result(result: "Result", as_json: bool) -> None:
    """A benchmark's figures under every rule."""
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    console = Console()
    # Wide enough for three rules side by side, also where the output goes to a file.
    console.width = max(console.width, 120)
    headline = result.headline
    low, high = headline.headline.low, headline.headline.high
    interval = "" if low is None or high is None else f" (95 % interval {low:.2f} to {high:.2f})"
    unknown = str(result.facts.get("clustered_by", "")).startswith("question")
    images = "(the files name no images)" if unknown else f"on {headline.headline.clusters} images"
    console.print(
        f"[bold]{result.benchmark}[/bold]: {headline.metric} [bold]{headline.headline.value:.3f}[/bold]{interval} "
        f"under rule {headline.rule}; {result.n} questions {images}, "
        f"{len(result.missing)} missing, {result.refusals} refusals",
        highlight=False,
    )
    table = Table("value ± standard error", *(score.rule for score in result.scores), box=None)
    for column in table.columns:
        column.no_wrap = True
    figures = [{score.metric: score.headline, **score.sub_scores} for score in result.scores]
    for name in dict.fromkeys(name for row in figures for name in row):
        table.add_row(name, *(_cell(row.get(name)) for row in figures))
    table.add_row("unreadable answers", *(str(score.parse_failures) for score in result.scores))
    console.print(table)
    if left_out := result.facts.get("asked_without"):
        console.print(f"asked without {', '.join(left_out)}, which the endpoint refuses", highlight=False)
    for rules, note in _notes(result):
        console.print(f"{rules}: {note}", highlight=False)


def _cell(figure: "Estimate | float | None") -> str:
    if figure is None:
        return ""
    if isinstance(figure, float):
        return f"{figure:.3f}"
    return f"{figure.value:.3f}" + ("" if figure.standard_error is None else f" ± {figure.standard_error:.3f}")


def _notes(result: "Result") -> list[tuple[str, str]]:
    notes: dict[str, list[str]] = {}
    for score in result.scores:
        for note in score.notes:
            notes.setdefault(note, []).append(score.rule)
    return [(", ".join(rules), note) for note, rules in notes.items()]


def keep_figures(result: dict[str, Any] | None, path: Path, as_json: bool) -> None:
    """Write the figures down and show them; nothing to do in helpers of `accelerate launch`."""
    from fourfold.assistant.files import write_text

    if result is None:
        return
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        table = Table("figure", "percent", "95 % interval", "n", box=None)
        for name, figure in result["figures"].items():
            interval = "" if figure["low"] is None else f"{figure['low']:.1f} to {figure['high']:.1f}"
            table.add_row(name, f"{figure['value']:.1f}", interval, str(figure["n"]))
        console = Console()
        console.width = max(console.width, 120)
        console.print(table)
    typer.echo(f"{result['failed']} questions failed; figures in {path}", err=True)
