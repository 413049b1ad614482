"""`fourfold eval`: score predictions, run benchmarks, look at the results."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fourfold.cli.eval_options import (
    ANNOTATIONS_HELP,
    PREDICTIONS_HELP,
    Annotations,
    Asking,
    Boxes,
    Json,
    Questions,
    with_asking,
)
from fourfold.cli.eval_output import keep_figures, show_result
from fourfold.prompts.errors import UserError

app = typer.Typer(help="Measure: score predictions, run benchmarks, report.", no_args_is_help=True)


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="okvqa, vqav2, textvqa, vizwiz, gqa, refcoco, pope, ...")],
    predictions: Annotated[Path, typer.Option(help=PREDICTIONS_HELP)],
    annotations: Annotated[Path, typer.Option(help=ANNOTATIONS_HELP)],
    questions: Annotated[Path | None, typer.Option(help="VQA question file: texts, and images to cluster by.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only this rule; without it, every rule is shown.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Unanswered counts as wrong.")] = False,
    gt_field: Annotated[str, typer.Option(help="VQA's ground truth; OK-VQA has raw_answer too.")] = "answer",
    box_format: Boxes = None,
    as_json: Json = False,
) -> None:
    """Score a file of predictions; no model is needed."""
    from fourfold.eval.score import score_files
    from fourfold.eval.tasks import Options

    result = score_files(
        benchmark,
        predictions,
        annotations,
        questions=questions,
        rule=rule,
        allow_missing=allow_missing,
        options=Options(gt_field, box_format),
    )
    show_result(result, as_json)


@app.command()
@with_asking
def run(
    asking: Asking,
    benchmark: Annotated[str, typer.Argument(help="A benchmark, card (the held-out suite), or refinement.")],
    annotations: Annotations = None,
    questions: Questions = None,
    out: Annotated[Path, typer.Option(help="Folder of this run; a stopped run goes on there.")] = Path("out/eval"),
    control: Annotated[
        list[str] | None, typer.Option(help="none, blind, wrong-image, text-only; card: image, wrong-image, blind.")
    ] = None,
    probe: Annotated[str, typer.Option(help="none, patch-shuffle or distractor.")] = "none",
    box_format: Boxes = None,
    gt_field: Annotated[str, typer.Option(help="VQA's ground truth; OK-VQA has raw_answer too.")] = "answer",
    source: Annotated[list[str] | None, typer.Option(help="card: only photos, or only scenes.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="refinement: only these kinds of corrections.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="refinement: only these ways of learning.")] = None,
    counts: Annotated[str, typer.Option(help="refinement: numbers of corrections.")] = "0,8,32,128",
    as_json: Json = False,
) -> None:
    """Ask a model a benchmark's questions and score the answers."""
    if benchmark == "card":
        _card(asking, out, source, control, as_json)
        return
    if benchmark == "refinement":
        from fourfold.cli.eval_refinement import Taught, run_refinement_benchmark

        run_refinement_benchmark(asking, Taught(subject, arm, counts, source), out, as_json)
        return

    from fourfold.eval.asking import Control
    from fourfold.eval.probes import Probe
    from fourfold.eval.runner import RunOptions, run_benchmark

    controls = control or [Control.NONE]
    if len(controls) > 1 or controls[0] not in list(Control):
        raise UserError(f"--control is one of {', '.join(Control)}; a run has one")
    if probe not in list(Probe):
        raise UserError(f"--probe is one of {', '.join(Probe)}")
    if source:
        raise UserError("--source belongs to card; a benchmark's questions come from --annotations")
    manner, images = asking.manner(benchmark, box_format), asking.image_folder
    with asking.answerer() as answerer:
        finished = run_benchmark(
            RunOptions(
                benchmark=benchmark,
                images=images,
                annotations=annotations,
                out=out,
                answerer=answerer,
                questions=questions,
                limit=asking.limit,
                control=Control(controls[0]),
                probe=Probe(probe),
                manner=manner,
                gt_field=gt_field,
                seed=asking.seed,
                skip_missing_images=asking.skip_missing_images,
            )
        )
    if finished.result is not None:
        show_result(finished.result, as_json)
    if finished.asked:
        told = f"{finished.asked} asked, {finished.failed} failed; predictions in {out / 'predictions.json'}"
        typer.echo(told, err=True)


@app.command()
@with_asking
def converse(
    asking: Asking,
    benchmark: Annotated[str, typer.Argument(help="refcoco, refcoco+, refcocog, or one that is answered in words.")],
    annotations: Annotations = None,
    questions: Questions = None,
    out: Annotated[Path, typer.Option(help="Folder of this run; a stopped run goes on there.")] = Path("out/converse"),
    box_format: Boxes = None,
    as_json: Json = False,
) -> None:
    """Correct a model turn by turn, by a scripted user, and see what comes of it."""
    from fourfold.eval.conversation import run_conversation
    from fourfold.eval.runner import RunOptions

    if annotations is None:
        raise UserError("give --annotations FILE: a conversation needs to know the right answers")
    manner, images = asking.manner(benchmark, box_format), asking.image_folder
    with asking.answerer() as answerer:
        result = run_conversation(
            RunOptions(
                benchmark=benchmark,
                images=images,
                annotations=annotations,
                out=out,
                answerer=answerer,
                questions=questions,
                limit=asking.limit,
                manner=manner,
                seed=asking.seed,
                skip_missing_images=asking.skip_missing_images,
            )
        )
    keep_figures(result, out / "conversation.json", as_json)


@app.command()
@with_asking
def beaf(
    asking: Asking,
    boxes: Annotated[Path, typer.Option("--boxes", help="JSON Lines: image, width, height, boxes (box, label).")],
    out: Annotated[Path, typer.Option(help="Folder of this run; a stopped run goes on there.")] = Path("out/beaf"),
    as_json: Json = False,
) -> None:
    """Ask about an object, paint it over, ask again."""
    from fourfold.eval.beaf import run_beaf

    manner, images = asking.manner("pope"), asking.image_folder
    with asking.answerer() as answerer:
        result = run_beaf(
            answerer,
            boxes,
            images,
            out,
            manner=manner,
            limit=asking.limit,
            seed=asking.seed,
            skip_missing=asking.skip_missing_images,
        )
    keep_figures(result, out / "beaf.json", as_json)


def _card(asking: Asking, out: Path, sources: list[str] | None, controls: list[str] | None, as_json: bool) -> None:
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.eval.held_out import CONTROLS, SOURCES, card_markdown, run_card
    from fourfold.eval.log import write_whole

    if asking.endpoint:
        raise UserError("the card runs in process: give --model, not --endpoint")
    if asking.recipe or asking.prompt or asking.max_tokens:
        raise UserError("the card asks in its own words and lengths: leave --recipe, --prompt and --max-tokens out")
    for wanted, known in ((sources, SOURCES), (controls, CONTROLS)):
        if unknown := sorted(set(wanted or ()) - set(known)):
            raise UserError(f"the card knows no {unknown[0]!r}; it has: {', '.join(known)}")
    card = run_card(
        resolve_model(asking.model),
        limit=asking.limit,
        out=out,
        sources=sources or SOURCES,
        controls=controls or CONTROLS,
        seed=asking.seed,
        device=asking.device,
        name=asking.model,
    )
    table = card_markdown(card)
    write_whole(out / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "card.md", table)
    typer.echo(json.dumps(card, ensure_ascii=False) if as_json else table)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs; more than one are compared.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the report; the first folder by default.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Samples shown of each run, failures first.")] = 60,
) -> None:
    """Write report.html (opens anywhere), report.md and report.json."""
    from fourfold.eval.report import build_report, write_report

    for path in write_report(build_report(folders), out or folders[0], shown=samples):
        typer.echo(path)
