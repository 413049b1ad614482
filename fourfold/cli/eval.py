"""`fourfold eval`: score predictions, run benchmarks, look at the results."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fourfold.assistant.extras import require
from fourfold.cli.eval_audit import audit, compare, power
from fourfold.cli.eval_options import (
    DATA_HELP,
    DOWNLOAD_HELP,
    PREDICTIONS_HELP,
    SPLIT_HELP,
    Annotations,
    Asking,
    Boxes,
    GroundTruth,
    Json,
    Out,
    Questions,
    locate_data,
    with_asking,
)
from fourfold.cli.eval_output import keep_figures, show_result
from fourfold.cli.options import examples
from fourfold.prompts.errors import UserError

app = typer.Typer(
    help="Measure: score predictions, run benchmarks, audit logs, report.",
    no_args_is_help=True,
    epilog=examples(
        "fourfold eval run card --limit 20",
        "fourfold eval score gqa --predictions answers.json --annotations gqa.json",
        "fourfold eval compare out/a out/b",
        "fourfold eval report out/a",
    ),
)
_RUN_EXAMPLES = examples(
    "fourfold eval run card --limit 20",
    "fourfold eval run pope --annotations pope.json --images val2014/ --limit 100",
    "fourfold eval run okvqa --data OWNER/NAME --download",
    "fourfold eval run gqa --data gqa/ --endpoint http://127.0.0.1:8000/v1",
)
for verb in (audit, compare, power):
    app.command()(verb)


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="okvqa, vqav2, textvqa, vizwiz, gqa, refcoco, pope, ...")],
    predictions: Annotated[Path, typer.Option(help=PREDICTIONS_HELP)],
    annotations: Annotations = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    split: Annotated[str | None, typer.Option(help=SPLIT_HELP)] = None,
    download: Annotated[bool, typer.Option("--download", help=DOWNLOAD_HELP)] = False,
    questions: Annotated[Path | None, typer.Option(help="VQA question file: texts, and images to cluster by.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only this rule; without it, every rule is shown.")] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Unanswered counts as wrong.")] = False,
    gt_field: GroundTruth = "answer",
    box_format: Boxes = None,
    model: Annotated[
        str | None, typer.Option(help="Whose answers these are: its name tells how it writes boxes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a file of predictions; no model is needed."""
    from fourfold.assistant.grounding import family_of
    from fourfold.eval.benchmarks import Options
    from fourfold.eval.score import score_files

    if located := locate_data(data, annotations, questions, split, download):
        annotations, questions = located.annotations, located.questions
    if annotations is None:
        raise UserError("give --data PATH or --annotations FILE, the questions and their answers")
    if box_format is None and model is not None:
        if (family := family_of(model)) is None:
            raise UserError(f"how {model} writes boxes is not known here; say it with --box-format")
        box_format = family.box_format
    result = score_files(
        benchmark,
        predictions,
        annotations,
        questions=questions,
        rule=rule,
        allow_missing=allow_missing,
        options=Options(gt_field, box_format, split),
    )
    show_result(result, as_json)


@app.command(epilog=_RUN_EXAMPLES)
@with_asking
def run(
    asking: Asking,
    benchmark: Annotated[
        str, typer.Argument(help="A benchmark, card (the held-out suite), decisions, eyes, look-again, refinement.")
    ],
    annotations: Annotations = None,
    questions: Questions = None,
    out: Out = Path("out/eval"),
    control: Annotated[
        list[str] | None, typer.Option(help="none, blind, wrong-image, text-only; card: image, wrong-image, blind.")
    ] = None,
    probe: Annotated[str, typer.Option(help="none, patch-shuffle or distractor.")] = "none",
    box_format: Boxes = None,
    gt_field: GroundTruth = "answer",
    source: Annotated[list[str] | None, typer.Option(help="card, look-again: only photos, or only scenes.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="refinement: only these kinds of corrections.")] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="refinement, look-again, eyes: only these ways."),
    ] = None,
    counts: Annotated[str, typer.Option(help="refinement: numbers of corrections.")] = "0,8,32,128",
    as_json: Json = False,
) -> None:
    """Ask a model a benchmark's questions and score the answers."""
    require("eval", "asking a benchmark's questions")
    if benchmark in ("card", "decisions", "eyes", "look-again", "refinement"):
        idle: dict[str, object] = {
            "--annotations": annotations,
            "--questions": questions,
            "--box-format": box_format,
            "--images": asking.images,
            "--data": asking.data,
            "--probe": probe if probe != "none" else None,
        }
        if given := [name for name, value in idle.items() if value is not None]:
            raise UserError(f"{benchmark} has questions of its own: leave {', '.join(given)} out")
    if benchmark in ("card", "decisions"):
        measure = _card if benchmark == "card" else _decisions
        measure(asking, out, source, control, as_json)
        return
    if benchmark in ("eyes", "look-again"):
        measure_ways = _eyes if benchmark == "eyes" else _look_again
        measure_ways(asking, out, arm, source, as_json)
        return
    if benchmark == "refinement":
        from fourfold.cli.eval_refinement import run_refinement_benchmark

        run_refinement_benchmark(asking, subject, arm, counts, source, out, as_json)
        return

    from fourfold.eval.controls import Control, Perturbation
    from fourfold.eval.report.inspect_log import inspect_is_there, write_inspect_log
    from fourfold.eval.tasks.benchmark_run import run_benchmark

    controls = control or [Control.NONE]
    if len(controls) > 1 or controls[0] not in list(Control):
        raise UserError(f"--control is one of {', '.join(Control)}; a run has one")
    if probe not in list(Perturbation):
        raise UserError(f"--probe is one of {', '.join(Perturbation)}")
    if source:
        raise UserError("--source belongs to card; a benchmark's questions come from --annotations")
    options = asking.run_options(
        benchmark,
        annotations,
        out,
        box_format,
        questions=questions,
        control=Control(controls[0]),
        perturbation=Perturbation(probe),
        gt_field=gt_field,
    )
    with options.model:
        finished = run_benchmark(options)
    if finished.result is not None:
        show_result(finished.result, as_json)
        if inspect_is_there():
            write_inspect_log(out, finished.result)
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
    out: Out = Path("out/converse"),
    box_format: Boxes = None,
    as_json: Json = False,
) -> None:
    """Correct a model turn by turn, by a scripted user, and see what comes of it."""
    from fourfold.eval.tasks.conversation import run_conversation

    if annotations is None and asking.data is None:
        raise UserError("give --data PATH or --annotations FILE: a conversation needs to know the right answers")
    options = asking.run_options(benchmark, annotations, out, box_format, questions=questions)
    with options.model:
        result = run_conversation(options)
    keep_figures(result, out / "conversation.json", as_json)


@app.command()
@with_asking
def beaf(
    asking: Asking,
    boxes: Annotated[Path, typer.Option("--boxes", help="JSON Lines: image, width, height, boxes (box, label).")],
    out: Out = Path("out/beaf"),
    as_json: Json = False,
) -> None:
    """Ask about an object, paint it over, ask again."""
    from fourfold.eval.tasks.beaf import run_beaf

    if asking.data is not None:
        raise UserError("the objects come from --boxes; leave --data out")
    options = asking.run_options("pope", boxes, out, None)
    with options.model:
        result = run_beaf(options)
    keep_figures(result, out / "beaf.json", as_json)


def _card(asking: Asking, out: Path, sources: list[str] | None, controls: list[str] | None, as_json: bool) -> None:
    from fourfold.eval.report.card import card_markdown
    from fourfold.eval.report.decisions import RELIABILITY, draw_reliability
    from fourfold.eval.run import main_process
    from fourfold.eval.tasks.held_out import CONTROLS, SOURCES, run_card

    _check_card(asking, sources, controls)
    with asking.open_model() as model:
        card = run_card(
            model,
            limit=asking.limit,
            out=out,
            sources=sources or SOURCES,
            controls=controls or CONTROLS,
            seed=asking.seed,
        )
    if card["decisions"] and main_process():
        draw_reliability(card["decisions"], out / RELIABILITY)
    _keep(card, card_markdown(card), out / "card", as_json)


def _decisions(asking: Asking, out: Path, sources: list[str] | None, controls: list[str] | None, as_json: bool) -> None:
    from fourfold.eval.log import EvalLog
    from fourfold.eval.model import EngineModel
    from fourfold.eval.report.decisions import RELIABILITY, decisions_markdown, draw_reliability
    from fourfold.eval.run import main_process
    from fourfold.eval.tasks.decisions import measure_decisions
    from fourfold.eval.tasks.held_out import CONTROLS, SOURCES

    _check_card(asking, sources, controls)
    with asking.open_model() as model:
        if not isinstance(model, EngineModel):
            raise UserError("decisions are measured in process, where likelihoods are known: give --model DIR")
        with EvalLog(out / "decisions.jsonl", {"suite": "decisions", "model": model.identity}) as log:
            measured = measure_decisions(
                model,
                log,
                limit=asking.limit,
                sources=sources or SOURCES,
                controls=controls or CONTROLS,
                seed=asking.seed,
            )
    if main_process():
        draw_reliability(measured, out / RELIABILITY)
    _keep(measured, "\n".join(decisions_markdown(measured)) + "\n", out / "decisions", as_json)


def _check_card(asking: Asking, sources: list[str] | None, controls: list[str] | None) -> None:
    from fourfold.eval.tasks.held_out import CONTROLS, SOURCES

    if asking.recipe or asking.prompt or asking.max_tokens:
        raise UserError("the card asks in its own words and lengths: leave --recipe, --prompt and --max-tokens out")
    for wanted, known in ((sources, SOURCES), (controls, CONTROLS)):
        if unknown := sorted(set(wanted or ()) - set(known)):
            raise UserError(f"the card knows no {unknown[0]!r}; it has: {', '.join(known)}")


def _look_again(asking: Asking, out: Path, only: list[str] | None, sources: list[str] | None, as_json: bool) -> None:
    from fourfold.eval.tasks.held_out import SOURCES
    from fourfold.eval.tasks.look_again import look_again_markdown, run_look_again

    if asking.recipe or asking.prompt or asking.max_tokens:
        raise UserError("the loops ask in their own words: leave --recipe, --prompt and --max-tokens out")
    with asking.open_model(eyes=False) as model:
        measured = run_look_again(
            model,
            limit=asking.limit or 60,
            out=out,
            seed=asking.seed,
            only=only or (),
            sources=sources or SOURCES,
            workers=asking.concurrency,
        )
    _keep(measured, look_again_markdown(measured), out / "loop", as_json)


def _eyes(asking: Asking, out: Path, only: list[str] | None, sources: list[str] | None, as_json: bool) -> None:
    from fourfold.eval.model import EngineModel
    from fourfold.eval.report.eyes import eyes_markdown
    from fourfold.eval.tasks.eyes import run_eyes
    from fourfold.eval.tasks.held_out import SOURCES

    if asking.recipe or asking.prompt or asking.max_tokens or asking.no_eyes:
        raise UserError("eyes asks in its own words: leave --recipe, --prompt, --max-tokens and --no-eyes out")
    if unknown := sorted(set(sources or ()) - set(SOURCES)):
        raise UserError(f"there is no source {unknown[0]!r}; there are: {', '.join(SOURCES)}")
    with asking.open_model(eyes=False) as model:
        if not isinstance(model, EngineModel):
            raise UserError("eyes looks at the tower's own features, which an endpoint does not give: name a --model")
        measured = run_eyes(
            model, limit=asking.limit, out=out, seed=asking.seed, sources=sources or SOURCES, only=only or ()
        )
    _keep(measured, eyes_markdown(measured), out / "eyes", as_json)


def _keep(measured: dict[str, Any], table: str, path: Path, as_json: bool) -> None:
    """Write figures and table down, and show one of them."""
    from fourfold.assistant.files import write_text
    from fourfold.eval.run import main_process

    if main_process():
        write_text(path.with_suffix(".json"), json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
        write_text(path.with_suffix(".md"), table)
        typer.echo(json.dumps(measured, ensure_ascii=False) if as_json else table)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs; more than one are compared.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the report; the first folder by default.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Samples shown of each run, failures first.")] = 60,
) -> None:
    """Write report.html (opens anywhere), report.md and report.json."""
    from fourfold.eval.report.runs import build_report, write_report

    for path in write_report(build_report(folders), out or folders[0], shown=samples):
        typer.echo(path)
