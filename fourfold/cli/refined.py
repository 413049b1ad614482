"""What corrections have made of a model, for the commands that answer: its adapter and its memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.assistant.refine.memory import CorrectionMemory, Recalled
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.looking import Looking

CURRENT = "current"

_PANEL = "What it has learnt"
AdapterOption = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="DIR",
        help="A LoRA adapter to answer with: its directory, or `current`.",
        rich_help_panel=_PANEL,
    ),
]
StrengthOption = Annotated[
    float | None,
    typer.Option(
        "--strength", metavar="PART", min=0, max=1, help="Of the current adapter; default: 1.", rich_help_panel=_PANEL
    ),
]
MemoryOption = Annotated[
    bool,
    typer.Option("--memory", help="Give the right answer where the same was corrected before.", rich_help_panel=_PANEL),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="Directory of the corrections; default: the page's.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


NoEyesOption = Annotated[
    bool,
    typer.Option(
        "--no-eyes", help="The language model alone, without read-outs of its image tower.", rich_help_panel=_PANEL
    ),
]


def check_refined(
    adapter: str | None,
    strength: float | None,
    memory: bool,
    store: Path | None,
    *,
    eyes: bool = False,
    may_begin: bool = False,
) -> None:
    """See, before anything slow, that the options go together.

    Args:
        adapter, strength, memory, store: the options.
        eyes: whether there are eyes, which look into the store as well.
        may_begin: whether a store may be named that is not there yet.

    Raises:
        UserError: they do not, or the adapter is none.
    """
    from fourfold.assistant.checkpoints.adapter_files import check_adapter_files

    if adapter not in (None, CURRENT):
        check_adapter_files(Path(adapter))
    if strength is not None and adapter != CURRENT:
        raise UserError("--strength goes with --adapter current")
    if store is not None and not (memory or eyes or adapter == CURRENT):
        raise UserError("--store goes with --memory or --adapter current, and with eyes")
    if store is not None and not may_begin and not (store / "corrections.sqlite").is_file():
        raise UserError(
            f"--store {store}: no corrections are kept there; check the name (fourfold concepts show and "
            "fourfold refine import begin a store)"
        )


def chosen_adapter(
    adapter: str | None, strength: float | None, store: Path | None, model: Path
) -> tuple[str, Path] | None:
    """The name and the directory of the adapter to answer with; None for none, or where none is promoted.

    Raises:
        UserError: it does not fit the model, or the current one was trained for another checkpoint, or its files are
            missing or changed.
    """
    if adapter is None:
        return None
    if adapter != CURRENT:
        from fourfold.assistant.checkpoints.adapter_files import check_adapter_size

        check_adapter_size(Path(adapter), model)
        return Path(adapter).resolve().name, Path(adapter)
    from fourfold.assistant.refine.registry import SERVED_NAME, Registry
    from fourfold.assistant.refine.steps import current_adapter

    directory = current_adapter(Registry(store_directory(store)), model, 1.0 if strength is None else strength)
    return None if directory is None else (SERVED_NAME, directory)


def eyes_of(engine: "Engine", checkpoint: Path, store: Path | None) -> "Looking | None":
    """The engine's eyes, which know what was shown to this store; None where the checkpoint has no read-outs.

    Raises:
        UserError: the read-outs are damaged, or those of another tower.
    """
    from fourfold.assistant.refine.concepts.store import ConceptStore
    from fourfold.serving.looking import Looking

    return Looking.load(engine, checkpoint, ConceptStore(store_directory(store)))


def memory_of(store: Path | None) -> "CorrectionMemory":
    """The correction memory of a store."""
    from fourfold.assistant.refine.memory import CorrectionMemory
    from fourfold.assistant.refine.store import CorrectionStore

    return CorrectionMemory(CorrectionStore(store_directory(store)))


def recalled(memory: "CorrectionMemory | None", images: Sequence["Image.Image"], question: str) -> "Recalled | None":
    """What is remembered about a question, to be said in place of an answer; a line on stderr says so.

    Args:
        memory: None for none.
        images: those that the question can be about; several leave open which one was corrected.
        question: with its task tag.
    """
    if memory is None or len(images) != 1:
        return None
    found = memory.recall(images[0], question)
    if found is not None:
        typer.secho(f"remembered from your correction {found.id}", dim=True, err=True)
    return found


def store_directory(store: Path | None) -> Path:
    """The directory that `--store` names, or the default one."""
    from fourfold.assistant.refine.store import default_directory

    return store or default_directory()
