"""`fourfold eval run refinement`: what corrections are worth, measured with a simulated user."""

import json
from pathlib import Path

import typer

from fourfold.cli.eval_options import Asking
from fourfold.prompts.errors import UserError


def run_refinement_benchmark(
    asking: Asking,
    subjects: list[str] | None,
    arms: list[str] | None,
    counts: str,
    sources: list[str] | None,
    out: Path,
    as_json: bool,
) -> None:
    """Run it, or go on with it, and print the table (or the rows).

    Args:
        asking: the shared options.
        subjects, arms, sources: names; None for the default.
        counts: numbers of corrections, "0,8,32,128"; 0 is the model as it was shipped, which is always measured.
        out: folder of the run.
        as_json: print the rows.

    Raises:
        UserError: an option is unknown or belongs to other benchmarks.
    """
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.eval.experiments.arms import ARMS
    from fourfold.eval.experiments.run import Options, run_refinement
    from fourfold.eval.experiments.table import table_markdown

    if asking.endpoint or asking.recipe or asking.prompt or asking.max_tokens or asking.images:
        raise UserError("the refinement benchmark trains in this process and asks in its own words: give --model only")
    if any(not part.strip().isdecimal() for part in counts.split(",")):
        raise UserError(f"--counts is {counts!r}; give numbers of corrections such as 0,8,32")
    numbers = tuple(sorted({int(part) for part in counts.split(",")} - {0}))
    defaults = Options(model=Path(), out=out)
    rows = run_refinement(
        Options(
            model=resolve_model(asking.model),
            out=out,
            subjects=tuple(subjects or defaults.subjects),
            arms=tuple(arms or ARMS),
            counts=numbers or (defaults.count,),
            limit=asking.limit or defaults.limit,
            sources=tuple(sources) if sources else None,
            seed=asking.seed,
            device=asking.device,
        ),
        note=lambda text: typer.echo(text, err=True),
    )
    typer.echo(json.dumps(rows, ensure_ascii=False) if as_json else table_markdown(rows))
