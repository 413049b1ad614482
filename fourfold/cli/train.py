"""`fourfold train`: teach a bridge, look at what it is taught, compare recipes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


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
    max_minutes: Annotated[float | None, typer.Option(help="Stop after so long; the same command goes on.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
) -> None:
    """Train, or go on training, and export the bridge to OUT/bridge."""
    import torch

    from fourfold.assistant.training.curve import plot_curve
    from fourfold.assistant.training.evaluator import Evaluator
    from fourfold.assistant.training.recipe import read_recipe
    from fourfold.assistant.training.start import load_base
    from fourfold.assistant.training.trainer import Trainer

    if threads:
        torch.set_num_threads(threads)
    recipe = read_recipe(config)
    out = out or Path("runs") / config.stem
    model, processor = load_base(recipe, base)
    sources = (["photos"] if recipe.mixture.photos else []) + (["scenes"] if recipe.mixture.scenes else [])
    trainer = Trainer(
        recipe,
        model,
        processor,
        out,
        features,
        report=_print_line,
        probes=lambda packer, store: Evaluator(packer, store, recipe.held_out_items, sources),
    )
    finished = trainer.run(max_minutes)
    plot_curve([out], out / "curve.png")
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
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
) -> None:
    """Compute and keep the features of all images of a recipe."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from fourfold.assistant.training.data import Mixture
    from fourfold.assistant.training.features import FeatureStore
    from fourfold.assistant.training.recipe import read_recipe
    from fourfold.assistant.training.start import load_base

    if threads:
        torch.set_num_threads(threads)
    recipe = read_recipe(config)
    model, processor = load_base(recipe, base)
    store = FeatureStore(model, processor, directory)
    images = [image for image in Mixture(recipe.mixture).images() if image not in store]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("features", total=len(images))
        store.compute(images, on_progress=lambda done: progress.update(task, completed=done))


@app.command()
def ablations(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(help="Directory of the runs and of the table.")],
    base: BaseOption = None,
    features: FeaturesOption = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these variants; may repeat.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Start no variant after so long.")] = None,
) -> None:
    """Train the variants of a file with equal steps and write one table, table.json and table.md."""
    from fourfold.assistant.training.ablations import run_ablations

    table = run_ablations(config, out, base, features, only, max_minutes, report=_print_line)
    _say(f"wrote {table}")


def _print_line(line: Mapping[str, Any]) -> None:
    parts = []
    for name, value in line.items():
        if isinstance(value, Mapping):
            parts += [f"{key} {figure:.3f}" for key, figure in value.items()]
        else:
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    _say("  ".join(parts))


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
