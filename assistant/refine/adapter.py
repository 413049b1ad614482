"""The adapter that a refinement hands on: PEFT's files over the whole model, as our engine and vLLM load them."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fourfold.assistant.files import building, write_text
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import, and the registry only looks at files
    from fourfold.assistant.training.recipe import LoraSettings
    from fourfold.assistant.training.trainable_model import TrainableModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def revision_of(directory: Path) -> str:
    """The id of an adapter directory: the first 12 hex digits of the SHA-256 of its weights and configuration.

    Raises:
        OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def scaled_adapter(directory: Path, lora_scale: float) -> Path:
    """The directory of a registered adapter at part of its effect: between the model as it was and as it was taught.

    A LoRA layer adds scale * B A x to what its layer computes; B is multiplied, which every program that loads the
    adapter understands.

    Args:
        directory: `STORE/adapters/REVISION`; what is derived lies in `STORE/derived/REVISION@SCALE`.
        lora_scale: 0..1, in hundredths; 1 is the adapter as it was trained, its own files.

    Raises:
        UserError: it is out of range, or cannot be written.
    """
    if not 0 <= lora_scale <= 1:
        raise UserError(f"the strength must lie between 0 and 1, not {lora_scale}")
    scale = round(lora_scale, 2)
    if scale == 1:
        return directory
    target = directory.parents[1] / "derived" / f"{directory.name}@{scale:.2f}"
    if target.is_dir():
        return target
    from safetensors.torch import load_file, save_file

    scaled = {
        # Multiplied in float32, so that it is rounded once.
        name: (tensor.float() * scale).to(tensor.dtype) if ".lora_B." in name else tensor
        for name, tensor in load_file(directory / WEIGHTS).items()
    }
    try:
        with building(target) as part:
            save_file(scaled, part / WEIGHTS, metadata={"format": "pt"})
            shutil.copyfile(directory / CONFIG, part / CONFIG)
    except OSError as error:
        if not target.is_dir():  # else another process was quicker, and made the same
            raise UserError(f"{target} cannot be written ({error.strerror})") from None
    return target


def write_adapter(directory: Path, trainable: "TrainableModel", lora: "LoraSettings") -> str:
    """Write `adapter_model.safetensors` (float16) and `adapter_config.json`.

    Unlike a bridge's adapter, which is merged into the language model, this one names its layers as they are called in
    the whole model, and says by an expression which these are: the image tower's layers have the same short names.

    Returns:
        SHA-256 (hex) of the weights' file.
    """
    import peft
    import torch
    from safetensors.torch import save_file

    tensors = {
        f"base_model.model.{name.replace('.default.', '.')}": parameter.detach().half().cpu().contiguous()
        for name, parameter in trainable.model.named_parameters()
        if ".lora_" in name
    }
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise FloatingPointError("the adapter's weights are not finite; train with a smaller rate")
    weights = directory / WEIGHTS
    save_file(tensors, weights, metadata={"format": "pt"})
    depth = trainable.model.config.text_config.num_hidden_layers
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_expression(lora, depth),
        inference_mode=True,
    )
    config.save_pretrained(str(directory))
    # PEFT writes sets in any order; the same training must give the same files.
    path = directory / CONFIG
    write_text(path, json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2, sort_keys=True) + "\n")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def write_projector(path: Path, trainable: "TrainableModel") -> None:
    """Write the projector, for comparisons only: no adapter can carry it."""
    from safetensors.torch import save_file

    named = trainable.model.model.projector.named_parameters()
    save_file({name: parameter.detach().cpu().contiguous() for name, parameter in named}, path)


def with_projector(model_directory: Path, projector: Path, out: Path) -> Path:
    """A copy of a checkpoint with another projector."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(model_directory, dtype=torch.float32)
    model.model.projector.load_state_dict(load_file(projector))
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(model_directory, trust_remote_code=False).save_pretrained(out)
    return out


def _expression(lora: "LoraSettings", depth: int) -> str:
    layers = range(round(lora.first * depth), round(lora.last * depth))
    numbers = r"\d+" if len(layers) == depth else f"({'|'.join(map(str, layers))})"
    return rf".*language_model\.layers\.{numbers}\..*\.({'|'.join(lora.targets)})"
