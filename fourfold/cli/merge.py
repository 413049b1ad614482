"""`fourfold merge`: an adapter added to the weights of its model."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    adapter: Annotated[Path, typer.Argument(help="Directory of a LoRA in PEFT's files.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint directory.")],
    model: Annotated[str | None, typer.Option(help="Which the adapter was trained on; default: fourfold-mini.")] = None,
) -> None:
    """Write a checkpoint with an adapter added to its weights, which any program loads without PEFT.

    Whoever serves it cannot switch the adapter off again, and no gate has looked at it.
    """
    from fourfold.assistant.checkpoints.adapter_files import check_adapter_size
    from fourfold.assistant.checkpoints.merge import check_merge, merge_adapter
    from fourfold.assistant.checkpoints.resolve import resolve_model

    check_merge(adapter, out)  # before a model is fetched, and torch and transformers are imported
    checkpoint = resolve_model(model)
    check_adapter_size(adapter, checkpoint)

    from transformers.utils import logging

    logging.disable_progress_bar()
    print(f"{merge_adapter(checkpoint, adapter, out)}; next: fourfold chat --model {out}")
