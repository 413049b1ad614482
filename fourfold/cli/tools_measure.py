"""`fourfold tools measure` and `teach-masks`: the figures of docs/tools.md."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.cli.options import ModelOption
from fourfold.cli.pictures import AsJson
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.eval.vision.row import Row


class Study(StrEnum):
    """What can be measured."""

    DETECTOR = "detector"
    SEGMENT = "segment"
    DEFECTS = "defects"
    COMPARE = "compare"
    PARTS = "parts"


def measure(
    studies: Annotated[
        list[Study] | None,
        typer.Argument(metavar="[STUDY]...", help=f"Of {', '.join(Study)}; without any, all.", show_choices=False),
    ] = None,
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
        if Study.SEGMENT in chosen:
            from fourfold.eval.vision.masks import measure_segmenter

            rows += measure_segmenter(limit or 20, tell)
        if set(chosen) - {Study.DETECTOR, Study.SEGMENT}:
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
        _show(rows)


def teach_masks(
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", show_default=False)],
    photos: Annotated[int, typer.Option("--photos", min=1, help="COCO's, with MobileSAM's masks.")] = 40,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Rendered, with exact masks.")] = 150,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 300,
    model: ModelOption = None,
) -> None:
    """Teach a small head that makes masks within boxes, and measure it on pictures that it was not taught by."""
    from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.assistant.patches.mask_training import learn_mask_head, scene_masks
    from fourfold.assistant.patches.tower import Tower
    from fourfold.assistant.progress import progress_bar
    from fourfold.assistant.training.data.sample import photos_directory
    from fourfold.eval.vision.masks import measure_masks, photo_masks

    if out.suffix != ".safetensors":
        raise UserError(f"{out} has to end in .safetensors")
    directory, checkpoint = photos_directory(), resolve_model(model)
    see = Tower(checkpoint)
    with progress_bar() as tell:
        taught = list(photo_masks(see, directory, "coco", photos, tell))
        # Photos are fewer and say more.
        learnt = learn_mask_head([*3 * taught, *scene_masks(see, "mask learn", scenes)], steps=steps, on_progress=tell)
        learnt.save(out, {"tower": tower_fingerprint(checkpoint), "photos": photos, "scenes": scenes, "steps": steps})
        rows = measure_masks(learnt, see, directory, photos, tell)
    typer.echo(f"{out}: taught by {photos} photos and {scenes} scenes")
    _show(rows)


def _show(rows: "Sequence[Row]") -> None:
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
