"""`fourfold eval audit`, `compare` and `power`: other people's logs, two runs, and how many images it takes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fourfold.cli.eval_options import DATA_HELP, SPLIT_HELP, Boxes, Json
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.eval.audit.rescore import Rescored

_LOG_HELP = "lmms-eval's samples .jsonl, VLMEvalKit's .xlsx/.tsv/.json, Inspect's .eval/.json, or a run's folder."
Bench = Annotated[str | None, typer.Option("--benchmark", help="Whose rules; by default what the log calls its task.")]
Data = Annotated[str | None, typer.Option("--data", help=f"Right answers, where the log lacks them. {DATA_HELP}")]
Split = Annotated[str | None, typer.Option("--split", help=SPLIT_HELP)]


def audit(
    log: Annotated[Path, typer.Argument(help=_LOG_HELP)],
    reported: Annotated[float | None, typer.Option(help="The published number, in percent.")] = None,
    benchmark: Bench = None,
    data: Data = None,
    split: Split = None,
    box_format: Boxes = None,
    as_json: Json = False,
) -> None:
    """Score a log again under every rule, and say why a reported number is another one."""
    from fourfold.eval.audit.gap import explain_gap

    audited = _rescored(log, benchmark, data, split, box_format)
    gap = explain_gap(audited, reported) if reported is not None else None
    if as_json:
        typer.echo(json.dumps(_as_json(audited) | ({"gap": gap.to_json()} if gap else {}), ensure_ascii=False))
        return
    console = _console()
    own = "" if audited.own is None else f"; its own score {audited.own:.3f}"
    counts = f"{len(audited.answers)} of {len(audited.samples)} questions answered"
    console.print(
        f"[bold]{audited.log.harness}[/bold] log of {audited.log.task or 'an unnamed task'}, scored as "
        f"[bold]{audited.benchmark.name}[/bold]: {counts}{own}",
        highlight=False,
    )
    table = Table("rule", "score", "95 % interval", "unread", "from its own score", box=None)
    for score in audited.scores:
        shown = score.headline
        interval = "" if shown.low is None else f"{shown.low:.2f} to {shown.high:.2f}"
        change = "" if audited.own is None else f"{shown.value - audited.own:+.3f}"
        table.add_row(score.rule, f"{shown.value:.3f}", interval, str(score.parse_failures), change)
    console.print(table)
    if gap is not None:
        console.print(f"reported {gap.reported:g}, scored {gap.scored:.3f}: {gap.reported - gap.scored:+.3f} points")
        parts = Table("part", "points", "how it was found", box=None)
        for part in gap.parts:
            parts.add_row(part.name, f"{part.points:+.3f}", part.why)
        console.print(parts)


def compare(
    first: Annotated[Path, typer.Argument(help=_LOG_HELP)],
    second: Annotated[Path, typer.Argument(help="The other one, of any of these kinds.")],
    rule: Annotated[str | None, typer.Option(help="Compare under this rule; the headline's by default.")] = None,
    benchmark: Bench = None,
    data: Data = None,
    split: Split = None,
    box_format: Boxes = None,
    as_json: Json = False,
) -> None:
    """Say which of two runs is better, by a paired test over whole images."""
    from fourfold.eval.audit.compare import compare_runs

    runs = [_rescored(path, benchmark, data, split, box_format) for path in (first, second)]
    found = compare_runs(runs[0], runs[1], rule)
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
        return
    outcome, difference = found.outcome, found.outcome.difference
    console = _console()
    console.print(f"[bold]{found.verdict}[/bold] (rule {found.rule})", highlight=False)
    interval = "" if difference.low is None else f" [{difference.low:+.2f}, {difference.high:+.2f}]"
    console.print(
        f"{found.first:.3f} and {found.second:.3f} on {found.common} common questions about {difference.clusters} "
        f"images: {difference.value:+.3f}{interval}, p {outcome.p_value:.4f}; {outcome.better} better, "
        f"{outcome.worse} worse, {outcome.equal} equal",
        highlight=False,
    )
    if found.left_out:
        console.print(f"{found.left_out} questions that only one of them answered are left out", highlight=False)


def power(
    runs: Annotated[list[Path] | None, typer.Argument(help="Two runs or logs, to measure how they differ.")] = None,
    difference: Annotated[float, typer.Option(help="What is to be seen, in points.")] = 1.0,
    baseline: Annotated[float | None, typer.Option(help="Without runs: the first model's score, in percent.")] = None,
    disagreement: Annotated[
        float | None, typer.Option(help="Without runs: percent of questions that only one of the two gets right.")
    ] = None,
    per_image: Annotated[float, typer.Option(help="Without runs: questions an image.")] = 1.0,
    icc: Annotated[float, typer.Option(help="Without runs: correlation of questions about one image.")] = 0.0,
    probability: Annotated[float, typer.Option("--power", help="How surely it is to be seen.")] = 0.8,
    benchmark: Bench = None,
    data: Data = None,
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Say how many images it takes to see a difference between two models."""
    from fourfold.eval.audit.power import assumed_spread, difference_seen, images_needed, measured_spread

    if runs:
        if len(runs) != 2 or baseline is not None or disagreement is not None:
            raise UserError("give two runs and no --baseline, or --baseline without runs")
        one, two = (_rescored(path, benchmark, data, split, None) for path in runs)
        images = {sample.id: sample.cluster for sample in one.samples}
        scores = [{key: run.scores[0].by_sample.get(key, 0.0) for key in run.answers} for run in (one, two)]
        spread = measured_spread(scores[0], scores[1], images)
    elif baseline is None:
        raise UserError("give two runs, or --baseline PERCENT")
    else:
        share = None if disagreement is None else disagreement / 100
        spread = assumed_spread(baseline / 100, difference / 100, share, per_image, icc)
    if not difference:
        raise UserError("--difference is zero: nothing is to be seen")
    needed = images_needed(spread, difference / 100, probability)
    told: dict[str, Any] = {"images": needed, "difference": difference, "power": probability, "from": spread.why}
    if spread.images:
        told["these_images"] = spread.images
        told["they_show"] = 100 * difference_seen(spread, spread.images, probability)
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(
        f"{needed} images show a difference of {difference:g} points with probability {probability:g} (p < 0.05)"
    )
    typer.echo(f"from {spread.why}")
    if spread.images:
        typer.echo(f"these {spread.images} images show differences of {told['they_show']:.2f} points and more")


def _rescored(log: Path, benchmark: str | None, data: str | None, split: str | None, boxes: Any) -> "Rescored":
    from fourfold.eval.audit.logs import read_log
    from fourfold.eval.audit.rescore import rescore
    from fourfold.eval.benchmarks import Options
    from fourfold.eval.data.locate import locate

    located = locate(data) if data is not None else None
    return rescore(
        read_log(log),
        benchmark=benchmark,
        data=located.annotations if located else None,
        questions=located.questions if located else None,
        options=Options(box_format=boxes, split=split),
    )


def _as_json(audited: "Rescored") -> dict[str, Any]:
    return {
        "log": str(audited.log.path),
        "harness": audited.log.harness,
        "task": audited.log.task,
        "benchmark": audited.benchmark.name,
        "n": len(audited.samples),
        "answered": len(audited.answers),
        "missing": len(audited.missing),
        "own_score": audited.own,
        "rules": {score.rule: score.to_json() for score in audited.scores},
    }


def _console() -> Console:
    console = Console()
    console.width = max(console.width, 120)
    return console
