"""`fourfold train`: teach a bridge, look at what it is taught, compare recipes."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fourfold.assistant.extras import require
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.assistant.training.recipe import Recipe
    from fourfold.assistant.training.trainer import Report, Trainer


class _RunByDefault(TyperGroup):
    """`fourfold train CONFIG` is `fourfold train run CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(help="Teach a bridge: `fourfold train CONFIG`.", cls=_RunByDefault, no_args_is_help=True)

ConfigArgument = Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)]
BaseOption = Annotated[str | None, typer.Option(help="Checkpoint to start from, in place of the recipe's base.")]
FeaturesOption = Annotated[
    Path | None, typer.Option(help="Directory of cached image features (default: kept in memory only).")
]


@app.command()
def run(
    config: ConfigArgument,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run, runs/<recipe>; one that is there is gone on with.")
    ] = None,
    base: BaseOption = None,
    features: FeaturesOption = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after so long, all included; the same command goes on.")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="As many steps as fit into --max-minutes, not the recipe's number of them.")
    ] = False,
    pause_file: Annotated[Path | None, typer.Option(help="Pause while this file exists.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
) -> None:
    """Train, or go on training, and export the bridge to OUT/bridge."""
    from fourfold.assistant.training.recipe import read_recipe
    from fourfold.assistant.training.results import plot_curve

    if fit and max_minutes is None:
        raise UserError("--fit needs --max-minutes, the time that the steps are to fit into")
    began = time.monotonic()
    _use_threads(threads)
    out = out or Path("runs") / config.stem
    trainer = _trainer(read_recipe(config), base, out, features, _print_line)
    left = None if max_minutes is None else max(0.0, max_minutes - (time.monotonic() - began) / 60)
    finished = trainer.run(left, fit, pause_file)
    plot_curve(out, out / "curve.png")
    _say("finished" if finished else "stopped at the time limit; run the same command to go on")
    _say(f"bridge: {out / 'bridge'}, curve: {out / 'curve.png'}")


@app.command()
def samples(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(help="Page to write, .png or .html.")],
    count: Annotated[int, typer.Option(help="How many samples.", min=1, max=200)] = 12,
    epoch: Annotated[int, typer.Option(help="Of which epoch.", min=0)] = 0,
) -> None:
    """Draw a page of what a recipe teaches: image, prompts, answers, boxes."""
    from fourfold.assistant.training.data.page import write_page
    from fourfold.assistant.training.recipe import read_recipe

    write_page(read_recipe(config).mixture, out, count, epoch)
    _say(f"wrote {out}")


@app.command()
def features(
    config: ConfigArgument,
    directory: Annotated[Path, typer.Option("--features", help="Directory to keep them in.")],
    base: BaseOption = None,
    workers: Annotated[int, typer.Option(help="Processes that read and resize images; 0 for a thread.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Images in one pass of the tower.", min=1)] = 16,
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
) -> None:
    """Compute and keep the features of all images of a recipe."""
    from fourfold.assistant.progress import Progress, progress_bar
    from fourfold.assistant.training.data import Mixture
    from fourfold.assistant.training.features import FeatureStore
    from fourfold.assistant.training.recipe import read_recipe
    from fourfold.assistant.training.trainable_model import load_base

    _use_threads(threads)
    recipe = read_recipe(config)
    store = FeatureStore(*load_base(recipe, base), directory)
    images = [image for image in Mixture(recipe.mixture).images() if image not in store]
    with progress_bar() as tell:
        store.compute(
            images,
            batch_size=batch_size,
            workers=workers,
            on_progress=lambda done: tell(Progress("features", done, len(images))),
        )


@app.command()
def pseudo_labels(
    out: Annotated[Path, typer.Option(help="File to write or go on with, .jsonl; recipes find it beside the photos.")],
    source: Annotated[
        list[str] | None, typer.Option(help="Of which photos; may repeat.", show_default="flickr8k_entities")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos now.")] = None,
) -> None:
    """Have the detector look at the photos for training, for a recipe's `pseudo_labels`."""
    from fourfold.assistant.progress import progress_bar
    from fourfold.assistant.training.data.pseudo_labels import make_pseudo_labels
    from fourfold.assistant.training.data.sample import photos_directory

    with progress_bar() as tell:
        done = make_pseudo_labels(photos_directory(), source or ["flickr8k_entities"], out, limit, tell)
    _say(f"{out}: {done} photos more")


@app.command()
def ablations(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(help="Directory of the runs and of the table.")],
    base: BaseOption = None,
    features: FeaturesOption = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these variants; may repeat.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Start no variant after so long.")] = None,
) -> None:
    """Train the variants of a file with equal steps and write one table, table.json and table.md.

    Variants that are finished in OUT already are not trained again.
    """
    from dataclasses import asdict

    from fourfold.assistant.training.recipe import read_variants
    from fourfold.assistant.training.results import write_table

    variants = read_variants(config)
    if unknown := set(only or ()) - set(variants):
        raise UserError(f"no variant is called {sorted(unknown)[0]!r}; there are: {', '.join(variants)}")
    began, rows = time.monotonic(), dict[str, dict[str, Any]]()
    for name, recipe in variants.items():
        left = None if max_minutes is None else max_minutes - (time.monotonic() - began) / 60
        if (only and name not in only) or (left is not None and left <= 0):
            continue
        trainer = _trainer(recipe, base, out / name, features, partial(_print_line, variant=name))
        finished = trainer.finished or trainer.run(left)
        rows[name] = {
            "finished": finished,
            "steps": trainer.step,
            "trained_parameters": sum(p.numel() for p in trainer.trainable.trained().values()),
            **trainer.seen,
            **trainer.figures,
            "recipe": asdict(recipe),
        }
        _say(f"wrote {write_table(out, rows)}")


@app.command()
def calibrate(
    model: Annotated[str | None, typer.Option(help="Checkpoint to fit; default: fourfold-mini.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for calibration.json; the checkpoint's own by default.")
    ] = None,
    limit: Annotated[int, typer.Option(min=20, help="Questions of a sort at most.")] = 200,
    log: Annotated[Path, typer.Option(help="Keeps what was asked, so that a stopped run goes on.")] = Path(
        "out/calibration.jsonl"
    ),
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
) -> None:
    """Fit on photos that it was not shown how far the model's probabilities can be believed.

    Temperatures of `POST /v1/decisions` and `fourfold decide` (calibration.json), and from when on the loop says
    "Not sure" before an answer of the model's own (`certainty` in card.json).
    """
    import json

    from fourfold.assistant.checkpoints.card import write_certainty
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.assistant.training.data.calibration import OPEN, calibration_samples
    from fourfold.eval.log import EvalLog
    from fourfold.eval.model import EngineModel
    from fourfold.eval.tasks.certainty import fit_certainty
    from fourfold.eval.tasks.decisions import fit_calibration

    _use_threads(threads)
    if out is not None and not out.is_dir():
        raise UserError(f"--out {out}: there is no such directory")
    directory = resolve_model(model)
    story = directory / "bridge.json"
    bridge = json.loads(story.read_text(encoding="utf-8")) if story.is_file() else {}
    samples, photos = calibration_samples(bridge, limit)
    told = {"photos": photos}
    with EngineModel(directory) as asked, EvalLog(log, {"suite": "calibration", "model": asked.identity}) as answers:
        closed = {sort: found for sort, found in samples.items() if sort not in OPEN}
        calibration = fit_calibration(asked, closed, answers, told)
        certainty, fitted = fit_certainty(asked, samples, answers)
    path = calibration.write(out or directory)
    write_certainty(out or directory, certainty)
    for kind, temperature in calibration.temperatures.items():
        _print_line({"temperature": temperature, **calibration.fitted[kind]}, kind=kind)
    for name, (slope, bias) in certainty.items():
        counts = {key: value for key, value in fitted[name].items() if key != "reliability"}
        _print_line({"slope": slope, "bias": bias, **counts}, kind=name)
    _say(f"fitted on photos of the {photos}; wrote {path}")


def _trainer(recipe: "Recipe", base: str | None, out: Path, features: Path | None, report: "Report") -> "Trainer":
    require("train", "training")
    from fourfold.assistant.training.trainable_model import load_base
    from fourfold.assistant.training.trainer import Trainer

    return Trainer(recipe, *load_base(recipe, base), out, features, report, evaluate=True)


def _use_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _print_line(line: Mapping[str, Any], **first: str) -> None:
    parts = []
    for name, value in {**first, **line}.items():
        if isinstance(value, Mapping):
            parts += [f"{key} {figure:.3f}" for key, figure in value.items()]
        else:
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    _say("  ".join(parts))


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
