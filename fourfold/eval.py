"""`fourfold eval`: score predictions, run benchmarks, look at the results."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from eval.metrics.boxes import BoxFormat
from prompts.errors import UserError

if TYPE_CHECKING:
    from eval.score import Result
    from eval.statistics import Estimate

app = typer.Typer(help="Measure: score predictions, run benchmarks, report.", no_args_is_help=True)

_PREDICTIONS_HELP = "JSON or JSON Lines with question_id (or id) and answer (or text, prediction; a box for RefCOCO)."
_ANNOTATIONS_HELP = "The benchmark's official annotation file, or a map from question id to answers."


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="okvqa, vqav2, textvqa, vizwiz, gqa, refcoco, pope, ...")],
    predictions: Annotated[Path, typer.Option(help=_PREDICTIONS_HELP)],
    annotations: Annotated[Path, typer.Option(help=_ANNOTATIONS_HELP)],
    questions: Annotated[Path | None, typer.Option(help="VQA question file: texts, and images to cluster by.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only this rule; without it, every rule is shown.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Unanswered counts as wrong.")] = False,
    gt_field: Annotated[str, typer.Option(help="VQA's ground truth; OK-VQA has raw_answer too.")] = "answer",
    box_format: Annotated[BoxFormat | None, typer.Option(help="How the model writes boxes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Score a file of predictions; no model is needed."""
    from eval.benchmarks import Options
    from eval.score import score_files

    result = score_files(
        benchmark,
        predictions,
        annotations,
        questions=questions,
        rule=rule,
        allow_missing=allow_missing,
        options=Options(gt_field, box_format),
    )
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    _show(result)


@app.command()
def run(
    benchmark: Annotated[str, typer.Argument(help="A benchmark, or card: the held-out suite of the default model.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the benchmark's images.")] = None,
    annotations: Annotated[Path | None, typer.Option(help=_ANNOTATIONS_HELP)] = None,
    questions: Annotated[Path | None, typer.Option(help="Question file; alone it means a test split.")] = None,
    endpoint: Annotated[list[str] | None, typer.Option(help="OpenAI-compatible server; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="Served name; without --endpoint a checkpoint folder.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of this run; a stopped run goes on there.")] = Path("out/eval"),
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions (for card: a kind).")] = None,
    control: Annotated[
        list[str] | None, typer.Option(help="none, blind, wrong-image, text-only; card: image, wrong-image, blind.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Wording: minigpt4 or plain.")] = "minigpt4",
    box_format: Annotated[BoxFormat | None, typer.Option(help="How the model writes boxes.")] = None,
    gt_field: Annotated[str, typer.Option(help="VQA's ground truth; OK-VQA has raw_answer too.")] = "answer",
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 20,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at most, an endpoint.")] = 16,
    api_key: Annotated[str, typer.Option(envvar="FOURFOLD_API_KEY", help="For the endpoints.")] = "none",
    skip_missing_images: Annotated[bool, typer.Option("--skip-missing-images", help="Leave these out.")] = False,
    source: Annotated[list[str] | None, typer.Option(help="card: only photos, or only scenes.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of questions and wrong images.")] = 0,
    device: Annotated[str, typer.Option(help="For a checkpoint: auto, cpu, cuda.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result there as JSON too.")] = None,
) -> None:
    """Ask a model a benchmark's questions and score the answers."""
    if benchmark == "card":
        if endpoint:
            raise UserError("the card runs in process: give --model, not --endpoint")
        _card(model, limit, out, json_file, source, control, seed, device)
        return

    from assistant.checkpoints.resolve import resolve_model
    from eval.answers import write_whole
    from eval.asking import Control
    from eval.benchmarks import Options
    from eval.runner import RunOptions, run_benchmark

    if images is None:
        raise UserError("give --images DIR, the folder of the benchmark's images")
    controls = control or [Control.NONE]
    if len(controls) > 1 or controls[0] not in list(Control):
        raise UserError(f"--control is one of {', '.join(Control)}; a run has one")
    finished = run_benchmark(
        RunOptions(
            benchmark=benchmark,
            images=images,
            annotations=annotations,
            questions=questions,
            out=out,
            endpoints=tuple(endpoint or ()),
            checkpoint=None if endpoint else resolve_model(model),
            model=model if endpoint else None,
            api_key=api_key,
            limit=limit,
            control=Control(controls[0]),
            style=prompt,
            scoring=Options(gt_field, box_format),
            max_tokens=max_tokens,
            seed=seed,
            concurrency=concurrency,
            skip_missing_images=skip_missing_images,
            device=device,
        )
    )
    if finished.result is not None:
        _show(finished.result)
        if json_file:
            write_whole(json_file, (out / "result.json").read_text(encoding="utf-8"))
    if finished.asked:
        typer.echo(
            f"{finished.asked} asked, {finished.failed} failed; predictions in {out / 'predictions.json'}", err=True
        )


def _card(
    model: str | None,
    limit: int | None,
    out: Path,
    json_file: Path | None,
    sources: list[str] | None,
    controls: list[str] | None,
    seed: int,
    device: str,
) -> None:
    from assistant.checkpoints.resolve import resolve_model
    from eval.answers import write_whole
    from eval.card import CONTROLS, SOURCES, card_markdown, run_card

    for wanted, known in ((sources, SOURCES), (controls, CONTROLS)):
        if unknown := sorted(set(wanted or ()) - set(known)):
            raise UserError(f"the card knows no {unknown[0]!r}; it has: {', '.join(known)}")
    card = run_card(
        resolve_model(model),
        limit=limit,
        out=out,
        sources=sources or SOURCES,
        controls=controls or CONTROLS,
        seed=seed,
        device=device,
        name=model,
    )
    table = card_markdown(card)
    for path in {out / "card.json", json_file or out / "card.json"}:
        write_whole(path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "card.md", table)
    typer.echo(table)


def _show(result: "Result") -> None:
    console = Console()
    # Wide enough for three rules side by side, also where the output goes to a file.
    console.width = max(console.width, 120)
    headline = result.headline
    low, high = headline.headline.low, headline.headline.high
    interval = "" if low is None or high is None else f" (95 % interval {low:.2f} to {high:.2f})"
    console.print(
        f"[bold]{result.benchmark}[/bold]: {headline.metric} [bold]{headline.headline.value:.3f}[/bold]{interval} "
        f"under rule {headline.rule}; {result.n} questions on {headline.headline.clusters} images, "
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
