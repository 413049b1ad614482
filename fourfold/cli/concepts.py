"""`fourfold concepts`: things shown once: show them, list, rename, forget, take them along."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.assistant.grounding import Box
from fourfold.cli.options import examples
from fourfold.cli.refined import StoreOption, store_directory
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.assistant.refine.concepts.store import Concept, ConceptStore

app = typer.Typer(
    help="Things shown once: pointing, naming and yes or no know them in other pictures.",
    no_args_is_help=True,
    epilog=examples(
        'fourfold concepts show "Rex" photo.jpg --box 10,20,60,90',
        'fourfold concepts show "Rex" other.jpg --not',
        "fourfold concepts list",
        'fourfold concepts forget "Rex"',
    ),
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help='What it is called: "Rex", "our bracket".')]
BOX_HELP = "x1,y1,x2,y2 in hundredths of the picture, from the left and the top; may be given often."


@app.command("show")
def show(
    name: NameArgument,
    photo: Annotated[Path, typer.Argument(help="A picture of it.")],
    box: Annotated[list[str] | None, typer.Option("--box", help=BOX_HELP)] = None,
    wrong: Annotated[
        bool, typer.Option("--not", help="That is not it: in the boxes, or nowhere in the picture.")
    ] = False,
    private: Annotated[bool, typer.Option("--no-training", help="Train no adapter with it.")] = False,
    store: StoreOption = None,
) -> None:
    """Show a thing once; show it again to have it known better."""
    from fourfold.assistant.images import Attachment

    concepts = _concepts(store)
    boxes = [read_box(text) for text in box or []]
    concepts.show(name, Attachment.from_path(photo), boxes, positive=not wrong, consent=not private)
    print(described(concepts.get(_shown_name(name))))


@app.command("list")
def list_concepts(store: StoreOption = None) -> None:
    """List what was shown."""
    found = _concepts(store).list()
    for concept in found:
        print(described(concept))
    if not found:
        print('nothing was shown yet: fourfold concepts show "Rex" photo.jpg --box 10,20,60,90')


@app.command("rename")
def rename(
    name: NameArgument, new: Annotated[str, typer.Argument(help="What it is called now.")], store: StoreOption = None
) -> None:
    """Call something else what was shown; where that name is taken the two become one."""
    print(described(_concepts(store).rename(name, new)))


@app.command("forget")
def forget(name: NameArgument, store: StoreOption = None) -> None:
    """Delete what was shown, for good; corrections it was made of stay (fourfold refine forget ID)."""
    for told in forgotten(_concepts(store), name):
        print(told)


@app.command("export")
def export(
    path: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="Pictures go into images/ beside it.")],
    store: StoreOption = None,
) -> None:
    """Write all that was shown to a file that `import` reads."""
    from fourfold.assistant.refine.concepts.transfer import export_concepts

    print(f"{export_concepts(_concepts(store), path)} examples are in {path}")


@app.command("import")
def import_(path: Annotated[Path, typer.Argument(metavar="FILE.jsonl")], store: StoreOption = None) -> None:
    """Read what `export` wrote, all of it or nothing."""
    from fourfold.assistant.refine.concepts.transfer import import_concepts

    imported = import_concepts(_concepts(store), path)
    print(f"{imported.added} examples were new, {imported.known} were here already")


def read_box(text: str) -> Box:
    """The box of four hundredths: "10,20,60,90", "10 20 60 90", "{<10><20><60><90>}".

    Raises:
        UserError: it is none.
    """
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    if len(numbers) == 4 and not re.search(r"[A-Za-z-]", text):
        x1, y1, x2, y2 = (float(number) / 100 for number in numbers)
        if x1 < x2 <= 1 and y1 < y2 <= 1:
            return Box(x1, y1, x2, y2)
    raise UserError(
        f"{text[:60]!r} is no box; give x1,y1,x2,y2 in hundredths of the picture, such as 10,20,60,90 (0 to 100, "
        "left before right, top before bottom)"
    )


def described(concept: "Concept") -> str:
    """One line: `Rex: 2 pictures, 3 boxes; not it: 1 picture`."""
    positive = [example for example in concept.examples if example.positive]
    boxes = sum(len(example.boxes) for example in positive)
    told = f"{concept.name}: {_number(len(positive), 'picture')}, {_number(boxes, 'box', 'boxes')}"
    if negative := len(concept.examples) - len(positive):
        told += f"; not it: {_number(negative, 'picture')}"
    if made := sum(example.correction is not None for example in concept.examples):
        told += f" ({made} from corrections)"
    return told


def forgotten(concepts: "ConceptStore", name: str) -> list[str]:
    """Forget what was shown, with the adapters that have learnt it; lines that say so.

    Raises:
        UserError: no concept has this name.
    """
    from fourfold.assistant.refine.registry import Registry
    from fourfold.assistant.refine.steps import forget_concept
    from fourfold.assistant.refine.store import CorrectionStore

    concepts.get(name)  # before anything is made on the disk
    store = CorrectionStore(concepts.directory)
    count, current = forget_concept(store, Registry(concepts.directory), name)
    told = [f"forgot {name} ({_number(count, 'example')})"]
    if current is not None:
        told.append(f"the current adapter {current} has learnt it: train again, or fourfold refine rollback")
    return told


def _number(count: int, noun: str, nouns: str | None = None) -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def _shown_name(name: str) -> str:
    from fourfold.assistant.refine.concepts.example import concept_name

    return concept_name(name)


def _concepts(store: Path | None) -> "ConceptStore":
    from fourfold.assistant.refine.concepts.store import ConceptStore

    return ConceptStore(store_directory(store))
