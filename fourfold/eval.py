"""`fourfold eval`: score predictions, run benchmarks, look at the results."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from eval.metrics.boxes import BoxFormat
from prompts.errors import UserError

if TYPE_CHECKING:
    from eval.answerer import Answerer
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


Images = Annotated[Path | None, typer.Option("--images", help="Folder of the benchmark's images.")]
Annotations = Annotated[Path | None, typer.Option("--annotations", help=_ANNOTATIONS_HELP)]
Questions = Annotated[Path | None, typer.Option("--questions", help="Question file; alone it means a test split.")]
Endpoint = Annotated[list[str] | None, typer.Option("--endpoint", help="OpenAI-compatible server; may be repeated.")]
Model = Annotated[str | None, typer.Option("--model", help="Served name; without --endpoint a checkpoint folder.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of this run; a stopped run goes on there.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many questions (for card: a kind).")]
Prompt = Annotated[str, typer.Option("--prompt", help="Wording: minigpt4 or plain.")]
Boxes = Annotated[BoxFormat | None, typer.Option("--box-format", help="How the model writes boxes.")]
Tokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Length of an answer.")]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, help="Requests in flight at most, an endpoint.")]
Key = Annotated[str, typer.Option("--api-key", envvar="FOURFOLD_API_KEY", help="For the endpoints.")]
Skip = Annotated[bool, typer.Option("--skip-missing-images", help="Leave questions without image out.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all draws.")]
Device = Annotated[str, typer.Option("--device", help="For a checkpoint: auto, cpu, cuda.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result there as JSON too.")]


@app.command()
def run(
    benchmark: Annotated[str, typer.Argument(help="A benchmark, or card: the held-out suite of the default model.")],
    images: Images = None,
    annotations: Annotations = None,
    questions: Questions = None,
    endpoint: Endpoint = None,
    model: Model = None,
    out: Out = Path("out/eval"),
    limit: Limit = None,
    control: Annotated[
        list[str] | None, typer.Option(help="none, blind, wrong-image, text-only; card: image, wrong-image, blind.")
    ] = None,
    probe: Annotated[str, typer.Option(help="none, patch-shuffle or distractor.")] = "none",
    prompt: Prompt = "minigpt4",
    box_format: Boxes = None,
    gt_field: Annotated[str, typer.Option(help="VQA's ground truth; OK-VQA has raw_answer too.")] = "answer",
    max_tokens: Tokens = 20,
    concurrency: Concurrency = 16,
    api_key: Key = "none",
    skip_missing_images: Skip = False,
    source: Annotated[list[str] | None, typer.Option(help="card: only photos, or only scenes.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Ask a model a benchmark's questions and score the answers."""
    if benchmark == "card":
        if endpoint:
            raise UserError("the card runs in process: give --model, not --endpoint")
        _card(model, limit, out, json_file, source, control, seed, device)
        return

    from eval.answers import write_whole
    from eval.asking import Control
    from eval.benchmarks import Options
    from eval.probes import Probe
    from eval.runner import RunOptions, run_benchmark

    controls = control or [Control.NONE]
    if len(controls) > 1 or controls[0] not in list(Control):
        raise UserError(f"--control is one of {', '.join(Control)}; a run has one")
    if probe not in list(Probe):
        raise UserError(f"--probe is one of {', '.join(Probe)}")
    finished = run_benchmark(
        RunOptions(
            benchmark=benchmark,
            images=_needed(images),
            annotations=annotations,
            out=out,
            answerer=_answerer(endpoint, model, api_key, max_tokens, seed, concurrency, device),
            questions=questions,
            limit=limit,
            control=Control(controls[0]),
            probe=Probe(probe),
            style=prompt,
            scoring=Options(gt_field, box_format),
            seed=seed,
            skip_missing_images=skip_missing_images,
        )
    )
    if finished.result is not None:
        _show(finished.result)
        if json_file:
            write_whole(json_file, (out / "result.json").read_text(encoding="utf-8"))
    if finished.asked:
        told = f"{finished.asked} asked, {finished.failed} failed; predictions in {out / 'predictions.json'}"
        typer.echo(told, err=True)


@app.command()
def converse(
    benchmark: Annotated[str, typer.Argument(help="refcoco, refcoco+, refcocog, or one that is answered in words.")],
    images: Images = None,
    annotations: Annotations = None,
    questions: Questions = None,
    endpoint: Endpoint = None,
    model: Model = None,
    out: Out = Path("out/converse"),
    limit: Limit = None,
    prompt: Prompt = "minigpt4",
    box_format: Boxes = None,
    max_tokens: Tokens = 20,
    concurrency: Concurrency = 16,
    api_key: Key = "none",
    skip_missing_images: Skip = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Correct a model turn by turn, by a scripted user, and see what comes of it."""
    from eval.benchmarks import Options
    from eval.conversation import run_conversation
    from eval.runner import RunOptions

    if annotations is None:
        raise UserError("give --annotations FILE: a conversation needs to know the right answers")
    result = run_conversation(
        RunOptions(
            benchmark=benchmark,
            images=_needed(images),
            annotations=annotations,
            out=out,
            answerer=_answerer(endpoint, model, api_key, max_tokens, seed, concurrency, device),
            questions=questions,
            limit=limit,
            style=prompt,
            scoring=Options(box_format=box_format),
            seed=seed,
            skip_missing_images=skip_missing_images,
        )
    )
    _keep(result, out / "conversation.json", json_file)


@app.command()
def beaf(
    boxes: Annotated[Path, typer.Option("--boxes", help="JSON Lines: image, width, height, boxes (box, label).")],
    images: Images = None,
    endpoint: Endpoint = None,
    model: Model = None,
    out: Out = Path("out/beaf"),
    limit: Limit = None,
    max_tokens: Tokens = 20,
    concurrency: Concurrency = 16,
    api_key: Key = "none",
    skip_missing_images: Skip = False,
    seed: Seed = 0,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Ask about an object, paint it over, ask again."""
    from eval.beaf import run_beaf

    answerer = _answerer(endpoint, model, api_key, max_tokens, seed, concurrency, device)
    result = run_beaf(answerer, boxes, _needed(images), out, limit=limit, seed=seed, skip_missing=skip_missing_images)
    _keep(result, out / "beaf.json", json_file)


def _needed(images: Path | None) -> Path:
    if images is None:
        raise UserError("give --images DIR, the folder of the images")
    return images


def _answerer(
    endpoint: list[str] | None,
    model: str | None,
    api_key: str,
    max_tokens: int,
    seed: int,
    concurrency: int,
    device: str,
) -> "Answerer":
    from assistant.checkpoints.resolve import resolve_model
    from eval.answerer import Answerer

    return Answerer(
        endpoints=tuple(endpoint or ()),
        checkpoint=None if endpoint else resolve_model(model),
        model=model if endpoint else None,
        api_key=api_key,
        max_tokens=max_tokens,
        seed=seed,
        concurrency=concurrency,
        device=device,
    )


def _keep(result: "dict[str, Any] | None", path: Path, json_file: Path | None) -> None:
    """Write the figures down and show them; nothing to do in helpers of `accelerate launch`."""
    from eval.answers import write_whole

    if result is None:
        return
    for target in {path, json_file or path}:
        write_whole(target, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    table = Table("figure", "percent", "95 % interval", "n", box=None)
    for name, figure in result["figures"].items():
        interval = "" if figure["low"] is None else f"{figure['low']:.1f} to {figure['high']:.1f}"
        table.add_row(name, f"{figure['value']:.1f}", interval, str(figure["n"]))
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    typer.echo(f"{result['failed']} questions failed; figures in {path}", err=True)


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


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs; more than one are compared.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the report; the first folder by default.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Samples shown of each run, failures first.")] = 60,
) -> None:
    """Write report.html (opens anywhere), report.md and report.json."""
    from eval.report import build_report, write_report

    for path in write_report(build_report(folders), out or folders[0], shown=samples):
        typer.echo(path)
