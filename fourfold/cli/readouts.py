"""`fourfold readouts`: learn what the tower's patches say of nouns and colours, and look at what was learnt."""

from pathlib import Path
from typing import Annotated

import typer

from fourfold.cli.options import examples
from fourfold.prompts.errors import UserError

app = typer.Typer(
    help="Read-outs of the image tower: learn a library, show one.",
    no_args_is_help=True,
    epilog=examples(
        "fourfold readouts show",
        "fourfold readouts learn photos/ --annotations a.json --out a.safetensors",
    ),
)


@app.command()
def learn(
    folder: Annotated[Path, typer.Argument(help="Folder of the pictures.", show_default=False)],
    annotations: Annotated[
        list[Path], typer.Option("--annotations", help="COCO .json, or .jsonl with boxes or phrases; may repeat.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The library to write, a .safetensors file.")],
    model: Annotated[str | None, typer.Option("--model", help="Checkpoint whose tower is read.")] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=0, help="Rendered scenes to learn shapes from, too.")] = 0,
    surfaces: Annotated[
        int, typer.Option("--surfaces", min=0, help="Rendered surfaces to learn defects from, too.")
    ] = 0,
    features: Annotated[
        Path | None, typer.Option("--features", help="Where features are kept, OUT.features; a stopped run goes on.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of the fit of boxes to maps.")] = 4000,
    seed: Annotated[int, typer.Option("--seed", help="Of all draws.")] = 0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads.")] = None,
) -> None:
    """Learn read-outs of every noun with five boxes or more."""
    if out.suffix != ".safetensors":
        raise UserError(f"--out is a .safetensors file, not {out.name}")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    from fourfold.assistant.readouts.annotations import read_annotations, scene_examples, surface_examples

    pictures = [one for file in annotations for one in read_annotations(folder, file)]
    pictures += [*scene_examples(scenes), *surface_examples(surfaces)]
    typer.echo(f"{len(pictures)} annotated pictures", err=True)

    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.assistant.progress import progress_bar
    from fourfold.assistant.readouts.folder import learn_from_pictures
    from fourfold.assistant.readouts.storage import save_library

    if threads:
        import torch

        torch.set_num_threads(threads)
    kept = features or out.with_name(f"{out.stem}.features")
    provenance = {"annotations": [file.name for file in annotations], "steps": steps, "seed": seed}
    with progress_bar() as tell:
        library = learn_from_pictures(
            pictures, resolve_model(model), kept, steps=steps, seed=seed, provenance=provenance, on_progress=tell
        )
    save_library(library, out)
    typer.echo(f"{len(library.names)} nouns in {out}; features stay in {kept}", err=True)


@app.command()
def show(
    library: Annotated[
        Path | None, typer.Argument(help="A library's file; without it, that of the default model.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a library knows and where it comes from."""
    import json

    from fourfold.assistant.checkpoints.bridge import BRIDGE
    from fourfold.assistant.readouts.storage import READOUTS, read_library

    path = library or BRIDGE / READOUTS
    found = read_library(path)
    nouns = sorted(((r.boxes, r.name) for r in found.readouts if r.kind == "noun"), reverse=True)
    colours = sorted({r.name for r in found.readouts if r.kind == "colour"})
    if as_json:
        told = {
            "library": str(path),
            "tower": found.tower,
            "nouns": {name: boxes for boxes, name in nouns},
            "colours": colours,
            "synonyms": dict(found.synonyms),
            "provenance": dict(found.provenance),
        }
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    typer.echo(f"{path}: {len(nouns)} nouns, {len(colours)} colours, tower {found.tower}")
    typer.echo(f"nouns (boxes): {', '.join(f'{name} ({boxes})' for boxes, name in nouns)}")
    typer.echo(f"colours: {', '.join(colours)}")
    typer.echo(f"synonyms: {', '.join(f'{word} = {noun}' for word, noun in sorted(found.synonyms.items()))}")
    for name, value in found.provenance.items():
        typer.echo(f"{name}: {value}")
