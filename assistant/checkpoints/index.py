"""Which files of a checkpoint hold its weights, for loaders that would read all others too."""

import json
from pathlib import Path

from safetensors import safe_open

from fourfold.assistant.files import write_text

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def write_index(directory: Path) -> None:
    """Where other files in safetensors' format lie beside a checkpoint's only weight file, say which is the weights.

    vLLM loads every `*.safetensors` that an index does not leave out, read-outs included, and ends with an error.
    transformers reads the index only where there is no `model.safetensors`.
    """
    weights = directory / WEIGHTS
    if (directory / INDEX).exists() or set(directory.glob("*.safetensors")) <= {weights} or not weights.exists():
        return
    with safe_open(weights, framework="pt") as file:
        names = sorted(file.keys())
    told = {"metadata": {"total_size": weights.stat().st_size}, "weight_map": dict.fromkeys(names, WEIGHTS)}
    write_text(directory / INDEX, json.dumps(told, indent=1) + "\n")
