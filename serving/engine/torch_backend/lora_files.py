"""What an adapter's files hold, and whether that is a LoRA this model can take without changing for anybody else."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch

from fourfold.prompts.errors import UserError, first_line

_LORA = re.compile(r"(.+)\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\.weight|\.bias)?")
_TOWER = re.compile(r"(?:^|\.)vision_tower\.")
_HONOURED = {
    *("r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"),
}
_OF_TRAINING = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "init_lora_weights", "eva_config", "runtime_config", "ensure_weight_tying"),
}
# Their beginnings are parts of the base model's own weights, which PEFT takes out of it.
_CHANGE_THE_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga|loretta|milora", re.IGNORECASE)
_RANK = 1024
"""Beyond it a rank is a mistake, and its matrices would fill the memory before anybody could say so."""
_STRONGEST = 1e5
"""Of a layer's change, by the product of its matrices' norms: a trained one is below a thousand, and behind a hundred
times this the numbers of a 16-bit model end."""


def read_adapter(directory: Path) -> tuple["peft.LoraConfig", dict[str, torch.Tensor]]:
    """Configuration and weights of an adapter, by their names in the whole model.

    Raises:
        UserError: it is unreadable, or more or other than a LoRA.
    """
    try:
        config = peft.PeftConfig.from_pretrained(str(directory))
        weights = {
            key.removeprefix("base_model.model."): tensor
            for key, tensor in peft.load_peft_weights(str(directory), device="cpu").items()
        }
    except Exception as error:  # PEFT and safetensors raise almost anything on files that are no adapter
        raise UserError(f"cannot load the adapter {directory}: {first_line(error)}") from error
    try:
        _check_config(config)
        _check_weights(weights)
        _check_ranks(config, weights)
    except UserError as error:
        raise UserError(f"the adapter {directory} cannot be served: {error}") from None
    except (TypeError, AttributeError, ValueError) as error:
        wrong = f"its adapter_config.json holds a value of the wrong kind ({first_line(error)})"
        raise UserError(f"the adapter {directory} cannot be served: {wrong}; save it again") from None
    config.inference_mode = True
    config.init_lora_weights = True  # the file has the weights
    return config, weights


def check_fit(needed: Mapping[str, torch.Size], weights: Mapping[str, torch.Tensor]) -> None:
    """Compare what layers expect with what a file has.

    Raises:
        UserError: they differ; the message has both sizes, or the first name.
    """
    for key in sorted(needed.keys() & weights.keys()):
        want, got = list(needed[key]), list(weights[key].shape)
        if want == got:
            continue
        sizes = f"{key} is {_size(got)} in its file and would have to be {_size(want)}"
        rank = 0 if ".lora_A" in key or ".lora_embedding_A" in key else len(want) - 1
        if len(want) == len(got) and all(w == g for at, (w, g) in enumerate(zip(want, got, strict=True)) if at != rank):
            advice = f"its adapter_config.json says rank {want[rank]}, its file has {got[rank]}; correct the former"
        else:
            advice = "it was trained on a model of another size; use one that was trained on this one"
        raise UserError(f"{sizes}: {advice}")
    if missing := sorted(needed.keys() - weights.keys()):
        advice = "its adapter_config.json names more layers (target_modules) than its file has"
        raise UserError(f"it lacks {missing[0]}{_more(missing)}: {advice}")
    if unexpected := sorted(weights.keys() - needed.keys()):
        advice = "this model has no such layer, or target_modules of its adapter_config.json do not name it"
        raise UserError(f"it has weights that nothing takes: {unexpected[0]}{_more(unexpected)}: {advice}")


def check_strength(scales: Mapping[str, float], weights: Mapping[str, torch.Tensor]) -> None:
    """See that no layer's change makes numbers that the model cannot compute with.

    Args:
        scales: by the layer's name, what its product of matrices is multiplied by.

    Raises:
        UserError: one does; the message names the tensor.
    """
    for layer, scale in scales.items():
        for kind in ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"):
            pair = [weights[name] for name in (f"{layer}.{kind[0]}", f"{layer}.{kind[1]}") if name in weights]
            strength = abs(scale) * math.prod(float(matrix.double().norm()) for matrix in pair)
            if pair and not strength <= _STRONGEST:
                raise UserError(
                    f"{layer}.{kind[1]} is far too strong (the norm of its change is {strength:.3g}, and trained ones "
                    "stay below 1,000): a value in the file or lora_alpha is wrong; save the adapter again"
                )


def _check_config(config: Any) -> None:
    if not isinstance(config, peft.LoraConfig) or config.peft_type != peft.PeftType.LORA:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(f"it is of the type {kind}; only LORA is served")
    usual = peft.LoraConfig()
    if config.modules_to_save:
        names = ", ".join(sorted(config.modules_to_save))
        raise UserError(f"it replaces whole layers (modules_to_save: {names}); train it without, as LoRA layers alone")
    if config.bias != "none":
        raise UserError(f'it changes biases of the model itself (bias: "{config.bias}"); train it with bias "none"')
    if isinstance(config.init_lora_weights, str) and _CHANGE_THE_BASE.search(config.init_lora_weights):
        raise UserError(
            f"it needs the model's own weights changed (init_lora_weights: {config.init_lora_weights}); save it as a "
            "plain LoRA (path_initial_model_for_weight_conversion)"
        )
    for name in sorted(config.__dataclass_fields__.keys() - _HONOURED - _OF_TRAINING):
        value = getattr(config, name)
        if value and value != getattr(usual, name):
            raise UserError(f"its adapter_config.json has {name}, which is not served; train it without")


def _check_weights(weights: Mapping[str, torch.Tensor]) -> None:
    if not weights:
        raise UserError("its file holds no weights; save it again")
    for name, tensor in weights.items():
        if not _LORA.fullmatch(name):
            advice = "train it as LoRA layers alone, and save it with save_embedding_layers=False"
            raise UserError(f"it holds {name}, a weight of the model itself; {advice}")
        if not tensor.is_floating_point():
            raise UserError(f"{name} is of {str(tensor.dtype).removeprefix('torch.')}, not of floating point numbers")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} holds NaN or infinity: the training went wrong, or the file is damaged")
    if tower := sorted(name for name in weights if _TOWER.search(name)):
        raise UserError(
            f"it changes the vision tower ({tower[0]}{_more(tower)}), whose view of a picture all models here share; "
            "train it with target_modules of the language model alone, such as .*language_model.*(q_proj|v_proj)"
        )


def _check_ranks(config: "peft.LoraConfig", weights: Mapping[str, torch.Tensor]) -> None:
    declared = [config.r, *(config.rank_pattern or {}).values()]
    held = max(min(tensor.shape, default=0) for tensor in weights.values())
    if not all(isinstance(rank, int) for rank in declared):
        raise UserError("its adapter_config.json has a rank (r) that is no whole number; correct it")
    if (rank := max(declared)) > max(_RANK, held):
        raise UserError(f"its adapter_config.json says rank {rank}, its file has {held}; correct the former")


def _size(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
