"""`fourfold quantize`: a checkpoint's language model in 4 or 8 bits, in the format that vLLM serves."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fourfold.assistant.extras import require
from fourfold.assistant.quantization.methods import Method


def quantize(
    model: Annotated[str, typer.Argument(help="A checkpoint directory or fourfold-mini.")],
    out: Annotated[Path, typer.Argument(help="The new checkpoint directory.")],
    images: Annotated[Path, typer.Option(help="A folder of images such as the model is for; it is asked about them.")],
    method: Annotated[
        Method, typer.Option(help="gptq, awq: 4-bit weights. int8: 8-bit weights and activations.")
    ] = Method.GPTQ,
    chats: Annotated[int, typer.Option(min=8, help="Questions asked, each once.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the questions and of which image each is about.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Round the language model's weights, measured on chats about images; what sees keeps its precision.

    The new checkpoint is in the format compressed-tensors, which vLLM runs as it is (`fourfold serve --engine vllm`).
    """
    require("quantize", "fourfold quantize")
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.assistant.progress import progress_bar
    from fourfold.assistant.quantization.quantize import quantize as run

    with progress_bar() as tell:
        made = run(resolve_model(model), out, images, method=method, chats=chats, seed=seed, on_progress=tell)
    if as_json:
        typer.echo(json.dumps(asdict(made), default=str))
        return
    sizes = f"{_size(made.bytes_before)} of weights before, {_size(made.bytes)} now"
    typer.echo(f"{made.directory}: {made.layers} layers rounded by {method}, {sizes}")
    typer.echo(f"next: fourfold serve --engine vllm --model {made.directory}")


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
