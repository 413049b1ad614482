"""`fourfold tools`, what reads the image tower's patches: comparing with good pictures, parts, heat maps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.assistant.image_files import image_files
from fourfold.cli.chat_output import write_image
from fourfold.cli.options import ModelOption
from fourfold.cli.pictures import AsJson, Out, Picture, open_picture
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from fourfold.assistant.grounding import Box
    from fourfold.assistant.patches.tower import Tower
    from fourfold.assistant.readouts.library import ReadoutLibrary
    from fourfold.assistant.tools.results import Mask


def compare(
    picture: Picture,
    good: Annotated[Path, typer.Option("--good", help="Folder of pictures that are good: two or more.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="OUT.png", help="Save a heat map.")] = None,
    model: ModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a picture is from good ones, and where; above 1 no good one is as far from the others."""
    from fourfold.assistant.patches.compare import GoodPictures
    from fourfold.assistant.patches.heat import heat_map

    image = open_picture(picture, out)
    if not good.is_dir():
        raise UserError(f"--good {good}: there is no such folder")
    paths = image_files([good])
    if len(paths) < 2:
        raise UserError(f"--good {good}: comparing needs two pictures or more, and there are {len(paths)}")
    others = [open_picture(path) for path in paths]
    see = _tower(_checkpoint(model))
    bank = GoodPictures([see(other) for other in others])
    features = see(image)
    distances, score = bank.distances(features), bank.score(features)
    if out is not None:
        write_image(heat_map(image, distances / 2), out)
    rows, columns = distances.shape
    row, column = divmod(int(distances.argmax()), columns)
    place = ((column + 0.5) / columns, (row + 0.5) / rows)
    if as_json:
        typer.echo(json.dumps({"score": round(score, 3), "differs": score > 1, "place": place, "good": len(paths)}))
        return
    x, y = (round(100 * side) for side in place)
    said = f"differs, most at {x},{y}" if score > 1 else "like the good ones"
    typer.echo(f"{score:.2f}: {said}")


def parts(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", show_default=False)],
    like: Annotated[Path, typer.Option("--like", help="The annotated picture.")],
    mask: Annotated[list[str], typer.Option("--mask", metavar="NAME=MASK.png", help="White where the part is.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Save a map of each picture.")] = None,
    model: ModelOption = None,
) -> None:
    """Find the parts of one annotated picture in others, and print where each is likeliest, in hundredths."""
    import numpy as np
    from PIL import Image

    from fourfold.assistant.grounding import PALETTE
    from fourfold.assistant.patches.parts import Parts

    images = [open_picture(path) for path in pictures]
    shown = open_picture(like)
    written = dict(_mask_of(text) for text in mask)
    masks = {name: open_picture(path) for name, path in written.items()}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint(model)
    library, see = library_of(checkpoint), _tower(checkpoint)
    features = see(shown)
    found = Parts(
        features,
        {name: _patches(image, shown.size, features.shape[:2], name) for name, image in masks.items()},
        next(iter(library.domains.values())).patches,
    )
    for path, image in zip(pictures, images, strict=True):
        features = see(image)
        scores, labels = found.scores(features), found.labels(features)
        for name, score in zip(found.names, scores, strict=True):
            row, column = divmod(int(score.argmax()), score.shape[1])
            x, y = round(100 * (column + 0.5) / score.shape[1]), round(100 * (row + 0.5) / score.shape[0])
            typer.echo(f"{path}: {name} " + (f"at {x},{y}" if score.max() > 0 else "is not seen"))
        if out is not None:
            colours = [(0, 0, 0), *(PALETTE[number % len(PALETTE)] for number in range(len(found.names)))]
            shades = Image.fromarray(np.array(colours, np.uint8)[labels + 1])
            coloured = shades.resize(image.size, Image.Resampling.NEAREST)
            write_image(Image.blend(image, coloured, 0.5), out / f"{path.stem}.png")


def heat_map_of(
    picture: Picture,
    noun: Annotated[str, typer.Argument(show_default=False, help="A noun of the library, or a defect.")],
    out: Out,
    library: Annotated[Path | None, typer.Option("--library", help="Read-outs; default: the checkpoint's.")] = None,
    model: ModelOption = None,
) -> None:
    """Save where a picture looks like a noun, as the tower's read-outs see it."""
    from fourfold.assistant.patches.heat import heat_map

    image = open_picture(picture, out)
    checkpoint = _checkpoint(model)
    found, see = library_of(checkpoint, library), _tower(checkpoint)
    features = see(image)
    name = found.noun_of(noun)
    if name is None:
        raise UserError(f"the library has no read-out of {noun[:60]!r}; `fourfold readouts show` lists its nouns")
    scores = found.score_map(features, name)
    # In standard deviations over all pictures: below one a patch is ordinary, at five it is plain.
    write_image(heat_map(image, (scores - 1) / 4), out)
    typer.echo(f"{out}: {name}, in the picture with {found.presence(features, name):.0%}")


def surfaces(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)],
    number: Annotated[int, typer.Option("--count", min=1, help="Pictures.")] = 300,
) -> None:
    """Render surfaces with scratches, stains and dents, their masks, and annotations for `fourfold readouts learn`."""
    from PIL import Image

    from fourfold.assistant.files import write_text
    from fourfold.assistant.training.data.surfaces import SIZE, make_surface

    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} is there already and not empty; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for place in range(number):
        surface = make_surface(f"learn {place}")
        name = f"{place:05d}.png"
        surface.render().save(out / name)
        Image.fromarray(surface.mask).save(out / f"{place:05d}.mask.png")
        boxes = [{"box": box.to_pixels(SIZE, SIZE), "label": one.kind} for one in surface.defects for box in one.boxes]
        line = {"id": f"surface/{place}", "image": name, "width": SIZE, "height": SIZE, "split": "train"}
        lines.append(json.dumps({**line, "boxes": boxes}))
    write_text(out / "surfaces.jsonl", "\n".join(lines) + "\n")
    typer.echo(f"{number} pictures with masks, and surfaces.jsonl, in {out}")


def masked_by(head: Path, model: str | None, image: "Image.Image", box: "Box") -> "Mask":
    """The mask of the thing in a box, by a head of `teach-masks`; how sure it is nobody estimates."""
    from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
    from fourfold.assistant.patches.mask_head import MaskHead
    from fourfold.assistant.tools.results import Mask

    checkpoint = _checkpoint(model)
    taught = MaskHead.load(head, tower_fingerprint(checkpoint))
    [pixels] = taught.masks(_tower(checkpoint)(image), image, [box])
    return Mask.of(pixels, None)


def _checkpoint(model: str | None) -> Path:
    from fourfold.assistant.checkpoints.resolve import resolve_model

    return resolve_model(model)


def _tower(checkpoint: Path) -> "Tower":
    from fourfold.assistant.patches.tower import Tower

    return Tower(checkpoint)


def library_of(checkpoint: Path, file: Path | None = None) -> "ReadoutLibrary":
    from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
    from fourfold.assistant.readouts.storage import load_readouts, read_library

    if file is not None:
        return read_library(file, tower_fingerprint(checkpoint))
    library = load_readouts(checkpoint)
    if library is None:
        raise UserError(f"{checkpoint.name} has no read-outs; learn some with `fourfold readouts learn`")
    return library


def _mask_of(written: str) -> tuple[str, Path]:
    name, equals, path = written.partition("=")
    if not (name.strip() and equals and path):
        raise UserError(f"--mask {written!r}: write the part's name and its file, such as wheel=wheel.png")
    return name.strip(), Path(path)


def _patches(mask: "Image.Image", size: tuple[int, int], grid: Sequence[int], name: str) -> "np.ndarray":
    """(rows, columns), 0..1: how much of each patch a mask covers."""
    import numpy as np
    from PIL import Image

    if mask.size != size:
        raise UserError(f"the mask of {name!r} is {mask.size}, its picture {size} pixels; they must be alike")
    rows, columns = grid
    shrunk = mask.convert("L").resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(shrunk, np.float32) / 255
