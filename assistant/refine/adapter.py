"""The adapter that a refinement hands on: PEFT's files over the whole model, as our engine and vLLM load them."""

import hashlib
import json
from pathlib import Path

import torch

from fourfold.assistant.training.recipe import LoraSettings
from fourfold.assistant.training.trainable_model import TrainableModel


def write_adapter(directory: Path, learner: TrainableModel, lora: LoraSettings) -> str:
    """Write `adapter_model.safetensors` (float16) and `adapter_config.json`.

    Unlike a bridge's adapter, which is merged into the language model, this one names its layers as they are called in
    the whole model, and says by an expression which these are: the image tower's layers have the same short names.

    Returns:
        SHA-256 (hex) of the weights' file.
    """
    import peft
    from safetensors.torch import save_file

    tensors = {
        f"base_model.model.{name.replace('.default.', '.')}": parameter.detach().half().cpu().contiguous()
        for name, parameter in learner.model.named_parameters()
        if ".lora_" in name
    }
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise FloatingPointError("the adapter's weights are not finite; train with a smaller rate")
    weights = directory / "adapter_model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    depth = learner.model.config.text_config.num_hidden_layers
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_expression(lora, depth),
        inference_mode=True,
    )
    config.save_pretrained(str(directory))
    # PEFT writes sets in any order; the same training must give the same files.
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2, sort_keys=True) + "\n", "utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def write_projector(path: Path, learner: TrainableModel) -> None:
    """Write the projector, for comparisons only: no adapter can carry it."""
    from safetensors.torch import save_file

    named = learner.model.model.projector.named_parameters()
    save_file({name: parameter.detach().cpu().contiguous() for name, parameter in named}, path)


def with_projector(model_directory: Path, projector: Path, out: Path) -> Path:
    """A copy of a checkpoint with another projector."""
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(model_directory, dtype=torch.float32)
    model.model.projector.load_state_dict(load_file(projector))
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(model_directory).save_pretrained(out)
    return out


def _expression(lora: LoraSettings, depth: int) -> str:
    layers = range(round(lora.first * depth), round(lora.last * depth))
    numbers = r"\d+" if len(layers) == depth else f"({'|'.join(map(str, layers))})"
    return rf".*language_model\.layers\.{numbers}\..*\.({'|'.join(lora.targets)})"
