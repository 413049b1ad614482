"""`fourfold convert`: the original MiniGPT-v2 checkpoint made into one that everything here loads."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.assistant.extras import require

if TYPE_CHECKING:
    from fourfold.assistant.checkpoints.original.convert import Conversion


def convert(
    checkpoint: Annotated[Path, typer.Option(help="MiniGPT-v2's .pth (stage 2, stage 3 or demo).")],
    llama: Annotated[Path, typer.Option(help="Directory of Llama-2-7b-chat-hf, with tokenizer.model.")],
    vision: Annotated[Path, typer.Option(help="EVA-CLIP-g as LAVIS publishes it, eva_vit_g.pth.")],
    out: Annotated[Path, typer.Option(help="The new checkpoint directory.")],
    keep_adapter: Annotated[
        bool, typer.Option("--keep-adapter", help="Keep the LoRA apart, as a PEFT adapter in OUT/adapter.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    image_size: Annotated[int, typer.Option(help="Side of the square image in pixels.")] = 448,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Convert the original MiniGPT-v2 release, exactly or not at all.

    Every key and every shape of the three sources must match; otherwise nothing is written and the mismatch is named.
    Interrupted, the same command goes on where it was.
    """
    require("train", "converting the original release")
    from fourfold.assistant.checkpoints.original.convert import convert as run
    from fourfold.assistant.progress import progress_bar

    with progress_bar() as tell:
        conversion = run(
            checkpoint,
            llama,
            vision,
            out,
            keep_adapter=keep_adapter,
            dtype=dtype,
            image_size=image_size,
            on_progress=tell,
        )
    typer.echo(json.dumps(asdict(conversion), default=str) if as_json else _summary(conversion))


def _summary(conversion: "Conversion") -> str:
    stage = conversion.stage
    size = f"{conversion.parameters / 1e9:.2f} billion parameters, {conversion.bytes / 1e9:.2f} GB"
    lora = f"LoRA of rank {conversion.rank}, scale {conversion.scale:g}, "
    lines = [
        f"{conversion.directory}: {size}",
        lora + (f"kept in {conversion.adapter}" if conversion.adapter else "added to the weights"),
        f"{len(conversion.left_out)} keys of the sources are not part of the model (listed in conversion.json)",
        f"which of the public checkpoints: {stage.name}, since {stage.because}",
    ]
    if stage.expected:
        figures = ", ".join(f"{name} {value:g}" for name, value in stage.expected.items())
        lines.append(f"the paper's figures for it: {figures}")
    verb, adapter = ("serve", f" --adapter {conversion.adapter}") if conversion.adapter else ("chat", "")
    lines.append(f"next: fourfold {verb} --model {conversion.directory}{adapter}")
    return "\n".join(lines)
