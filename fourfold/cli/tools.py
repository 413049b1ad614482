"""`fourfold tools`: look at a picture without the language model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.cli.chat_output import corners, save_boxes, write_image
from fourfold.cli.concepts import read_box
from fourfold.cli.options import ModelOption, examples
from fourfold.cli.pictures import AsJson, Out, Picture, open_picture
from fourfold.cli.tools_measure import measure, teach_masks
from fourfold.cli.tools_patches import compare, heat_map_of, parts, surfaces

if TYPE_CHECKING:
    from PIL import Image
    from pydantic import BaseModel

    from fourfold.assistant.grounding import Box

app = typer.Typer(
    help="Look at a picture without the language model: detect, count, segment, compare.",
    no_args_is_help=True,
    epilog=examples(
        "fourfold tools fetch",
        "fourfold tools detect photo.jpg dog cat --draw boxes.png",
        "fourfold tools count photo.jpg dog",
        "fourfold tools read-text sign.jpg",
        "fourfold tools zoom photo.jpg --box 10,20,60,90 --out part.png",
        "fourfold tools compare part.jpg --good good/ --out heat.png",
    ),
)
Sides = Annotated[str, typer.Option("--box", metavar="X1,Y1,X2,Y2", help="In hundredths of the picture.")]
Draw = Annotated[Path | None, typer.Option("--draw", metavar="OUT.png", help="Save the picture with the boxes.")]


@app.command()
def detect(
    picture: Picture,
    nouns: Annotated[list[str] | None, typer.Argument(metavar="[NOUN]...", show_default=False)] = None,
    draw: Draw = None,
    as_json: AsJson = False,
) -> None:
    """Find things of COCO's 80 classes; without nouns, all of them."""
    from fourfold.assistant.tools import detect

    image = open_picture(picture, draw)
    seen = detect(image, nouns or [])
    _draw(image, [(one.noun, one.box) for one in seen.found], draw)
    lines = [f"{one.noun}  {corners(one.box)}  {one.confidence:.0%}" for one in seen.found]
    lines += [f"{noun}: the detector does not know it" for noun in seen.unknown]
    _print(seen, lines or ["nothing that the detector knows"], as_json)


@app.command()
def count(
    picture: Picture,
    noun: Annotated[str, typer.Argument(show_default=False)],
    draw: Draw = None,
    as_json: AsJson = False,
) -> None:
    """Count things of one of COCO's 80 classes."""
    from fourfold.assistant.tools import count

    image = open_picture(picture, draw)
    counted = count(image, noun)
    _draw(image, [(noun, box) for box in counted.boxes], draw)
    said = f"{'at least ' if counted.at_least else ''}{counted.number}"
    _print(counted, [f"the counter does not know {noun!r}" if counted.number is None else said], as_json)


@app.command()
def segment(
    picture: Picture,
    box: Sides,
    out: Out,
    head: Annotated[Path | None, typer.Option("--head", help="Of `teach-masks`, in place of MobileSAM.")] = None,
    model: ModelOption = None,
    as_json: AsJson = False,
) -> None:
    """Save the mask of the thing in a box: white where it is."""
    from PIL import Image

    image, around = open_picture(picture, out), read_box(box)
    if head is not None:
        from fourfold.cli.tools_patches import masked_by

        found = masked_by(head, model, image, around)
        surely = "by the head"
    else:
        from fourfold.assistant.tools import segment

        found = segment(image, box=around)
        surely = f"{found.confidence:.0%} by the segmenter's own estimate"
    write_image(Image.fromarray(found.pixels), out)
    _print(found, [f"{out}: {found.area:.1%} of the picture, {surely}"], as_json)


@app.command()
def read_text(picture: Picture, as_json: AsJson = False) -> None:
    """Read what is written in a picture, from top to bottom."""
    from fourfold.assistant.tools.reading import read_text

    read = read_text(open_picture(picture))
    _print(read, [line.text for line in read.lines] or ["no text found"], as_json)


@app.command()
def zoom(picture: Picture, box: Sides, out: Out) -> None:
    """Save a part of a picture at full resolution."""
    from fourfold.assistant.chat.look_again import crop

    part = crop(open_picture(picture, out), read_box(box))
    write_image(part, out)
    typer.echo(f"{out}: {part.width} x {part.height} pixels")


@app.command()
def fetch() -> None:
    """Download the tools' weights now, for later use without a network; their licences are printed."""
    from fourfold.assistant.tools.weights import TOOL_WEIGHTS

    for weights in TOOL_WEIGHTS:
        weights.fetch()
        typer.echo(f"{weights.title}: {weights.licences}")


def _draw(image: "Image.Image", named: Sequence[tuple[str, "Box"]], path: Path | None) -> None:
    from fourfold.assistant.grounding import GroundedPhrase

    if path is not None:
        groups: dict[str, list[Box]] = {}
        for name, box in named:
            groups.setdefault(name, []).append(box)
        save_boxes(image, [GroundedPhrase(name, tuple(boxes), 0, 0) for name, boxes in groups.items()], path)


def _print(result: "BaseModel", lines: Sequence[str], as_json: bool) -> None:
    typer.echo(json.dumps(result.model_dump(mode="json"), ensure_ascii=False) if as_json else "\n".join(lines))


app.command()(compare)
app.command()(parts)
app.command("heat-map")(heat_map_of)
app.command()(surfaces)
app.command("teach-masks")(teach_masks)
app.command()(measure)
