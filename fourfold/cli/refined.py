"""What corrections have made of a model, for the commands that answer: its adapter and its memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.assistant.refine.memory import Memory, Recalled

CURRENT = "current"

AdapterOption = Annotated[
    str | None, typer.Option("--adapter", help="A LoRA adapter to answer with: its directory, or `current`.")
]
StrengthOption = Annotated[
    float | None, typer.Option("--strength", min=0, max=1, help="Of the current adapter; default: 1.", show_default="1")
]
MemoryOption = Annotated[
    bool, typer.Option("--memory", help="Remember corrections of the same or very similar images.")
]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Directory of the corrections; default: the page's.", show_default=False)
]


def check_refined(adapter: str | None, strength: float | None, memory: bool, store: Path | None) -> None:
    """See, before anything slow, that the options go together.

    Raises:
        UserError: they do not, or the adapter is none.
    """
    from fourfold.serving.engine.adapter_files import check_adapter_files

    if adapter not in (None, CURRENT):
        check_adapter_files(Path(adapter))
    if strength is not None and adapter != CURRENT:
        raise UserError("--strength goes with --adapter current")
    if store is not None and not (memory or adapter == CURRENT):
        raise UserError("--store goes with --memory or --adapter current")


def chosen_adapter(
    adapter: str | None, strength: float | None, store: Path | None, model: Path
) -> tuple[str, Path] | None:
    """The name and the directory of the adapter to answer with; None for none, or where none is promoted.

    Raises:
        UserError: the current one was trained for another checkpoint, or its files are missing or changed.
    """
    if adapter is None:
        return None
    if adapter != CURRENT:
        return Path(adapter).resolve().name, Path(adapter)
    from fourfold.assistant.refine.registry import SERVED_NAME, Registry
    from fourfold.assistant.refine.steps import current_adapter

    directory = current_adapter(Registry(store_directory(store)), model, 1.0 if strength is None else strength)
    return None if directory is None else (SERVED_NAME, directory)


def memory_of(store: Path | None, model: Path) -> "Memory":
    """The correction memory of a store, with the model's own image tower."""
    from fourfold.assistant.refine.encoder import ImageEncoder
    from fourfold.assistant.refine.memory import Memory
    from fourfold.assistant.refine.store import CorrectionStore

    return Memory(CorrectionStore(store_directory(store)), ImageEncoder(model))


def remind(
    memory: "Memory | None", images: Sequence["Image.Image"], messages: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], "Recalled | None"]:
    """The conversation with what is remembered about its question, and that; a line on stderr says so.

    Where it is the answer to this very question, the conversation stays as it is: see `Recalled.known`.

    Args:
        memory: None for none.
        images: those that the question can be about; several leave open which one was corrected.
        messages: the last one is the question.
    """
    if memory is None or len(images) != 1:
        return messages, None
    from fourfold.assistant.refine.memory import reminded
    from fourfold.assistant.refine.record import text_of

    recalled = memory.recall(images[0], text_of(messages[-1]))
    if recalled is None:
        return messages, None
    like = "" if recalled.alike == 1 else f" of a similar image ({recalled.alike:.3f})"
    typer.secho(f"remembered from your correction {recalled.id}{like}", dim=True, err=True)
    return messages if recalled.known else reminded(messages, recalled), recalled


def store_directory(store: Path | None) -> Path:
    """The directory that `--store` names, or the default one."""
    from fourfold.assistant.refine.store import default_directory

    return store or default_directory()
