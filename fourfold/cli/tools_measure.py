"""`fourfold tools measure`: the figures of docs/eyes.md that need no language model."""

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.cli.options import ModelOption
from fourfold.cli.pictures import AsJson

if TYPE_CHECKING:
    from fourfold.eval.vision.row import Row


class Study(StrEnum):
    """What can be measured."""

    DETECTOR = "detector"
    DEFECTS = "defects"
    COMPARE = "compare"
    PARTS = "parts"


def measure(
    studies: Annotated[list[Study] | None, typer.Argument(show_default="all")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=2, help="Pictures of each study; fewer are quicker.")
    ] = None,
    model: ModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure the detector and what the image tower's patches can do, on the photos for teaching and rendered ones."""
    from fourfold.assistant.progress import progress_bar
    from fourfold.assistant.training.data.sample import photos_directory

    chosen = studies or list(Study)
    rows: list[Row] = []
    with progress_bar() as tell:
        if Study.DETECTOR in chosen:
            from fourfold.eval.vision.detector import measure_detector

            rows += measure_detector(photos_directory(), limit, tell)
        if set(chosen) - {Study.DETECTOR}:
            from fourfold.assistant.checkpoints.resolve import resolve_model
            from fourfold.assistant.patches.tower import Tower

            checkpoint = resolve_model(model)
            see = Tower(checkpoint)
        if Study.DEFECTS in chosen:
            from fourfold.eval.vision.surfaces import measure_named

            rows += measure_named(see, limit or 160, limit or 64, tell)
        if Study.COMPARE in chosen:
            from fourfold.eval.vision.surfaces import measure_compared

            rows += measure_compared(see, min(limit or 12, 12), 8, tell)
        if Study.PARTS in chosen:
            from fourfold.cli.tools_patches import library_of
            from fourfold.eval.vision.parts import measure_parts

            spread = next(iter(library_of(checkpoint).domains.values())).patches
            rows += measure_parts(see, photos_directory(), spread, limit or 40, tell)
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows]))
    else:
        show_rows(rows)


def show_rows(rows: "Sequence[Row]") -> None:
    """Print a table of figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table("of", "figure", "value", "95 %", "n")
    for row in rows:
        value = row.value
        between = "" if value.low is None or value.high is None else f"{value.low:.1f} - {value.high:.1f}"
        digits = 2 if row.figure.startswith("seconds") else 1
        table.add_row(row.of, row.figure, f"{value.value:.{digits}f}", between, str(value.n))
    Console(soft_wrap=True).print(table)
