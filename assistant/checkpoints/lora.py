"""A LoRA adapter added into the weights it was trained for, so that nothing of it remains to be computed."""

import json
import math
from pathlib import Path

import torch

from fourfold.assistant.checkpoints.damage import told_as_damage
from fourfold.prompts.errors import UserError

# Options of PEFT under which W + scale * B A would be the wrong sum, with the values under which it is the right one.
_PLAIN = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "layer_replication": ([], None),
}
_RANK, _ALPHA = 2**16, 1e6


def merge_lora(weights: dict[str, torch.Tensor], adapter: Path) -> dict[str, torch.Tensor]:
    """Add a PEFT adapter of the language model to its weights: W + scale * B A (Hu et al. 2021, section 4.1).

    PEFT's own loader lets tensors that fit nowhere pass with a warning; here each must find its weight.

    Args:
        weights: of transformers' `LlamaModel`, by name.
        adapter: directory with `adapter_config.json` and `adapter_model.safetensors`. It may have been trained on the
            language model alone or on the whole model: names are compared from `layers.` on.

    Returns:
        A copy of `weights`; those the adapter leaves alone are shared with the original.

    Raises:
        UserError: files are missing, the adapter is not a plain LoRA, or a tensor of it fits nowhere.
    """
    from safetensors.torch import load_file

    with told_as_damage(adapter, "save the adapter again"):
        try:
            options = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
            tensors = load_file(adapter / "adapter_model.safetensors")
        except FileNotFoundError as error:
            raise UserError(
                f"{error.filename or 'adapter_model.safetensors'} is missing in the adapter {adapter}"
            ) from error
    if not isinstance(options, dict):
        raise UserError(f"{adapter / 'adapter_config.json'} is no adapter's configuration; save the adapter again")
    for option, plain in _PLAIN.items():
        if options.get(option) not in plain:
            used = str(options[option])[:60]
            raise UserError(f"the adapter {adapter} uses {option}={used}, which cannot be merged here")
    rank, alpha = options.get("r"), options.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 < rank <= _RANK:
        raise UserError(f"the adapter {adapter} says rank (r) {str(rank)[:40]}; it must be 1 to {_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < _ALPHA:
        raise UserError(f"the adapter {adapter} says lora_alpha {str(alpha)[:40]}, which is no number to scale by")
    scale = alpha / (math.sqrt(rank) if options.get("use_rslora") else rank)
    modules = {key.partition(".lora_")[0] for key in tensors}
    pairs = {f"{module}.lora_{side}.weight" for module in modules for side in "AB"}
    if not modules or pairs != set(tensors):
        odd = min(pairs ^ set(tensors), default="no tensor")
        raise UserError(f"the adapter {adapter} is not a plain LoRA: {odd} is missing or unknown")
    if seeing := sorted(module for module in modules if "vision_tower." in module):
        raise UserError(f"the adapter {adapter} changes the image tower ({seeing[0]}), which is frozen here")
    merged = dict(weights)
    for module in modules:
        target = f"layers.{module.rpartition('layers.')[2]}.weight"
        down, up = tensors[f"{module}.lora_A.weight"].float(), tensors[f"{module}.lora_B.weight"].float()
        if down.ndim != 2 or up.ndim != 2:
            raise UserError(f"the adapter {adapter} is not a plain LoRA: {module} has no two matrices")
        shape = (len(up), down.shape[1])
        if target not in weights or shape != weights[target].shape or len(down) != rank or up.shape[1] != rank:
            raise UserError(
                f"the adapter {adapter} changes {module} by a {shape[0]} x {shape[1]} matrix of rank {len(down)}, "
                "which fits no weight of this language model"
            )
        merged[target] = weights[target] + scale * (up @ down)
    return merged
