"""The ways to fewer bits, as llm-compressor's modifiers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from fourfold.prompts.errors import UserError

if TYPE_CHECKING:  # whoever only names a method need not wait for it
    from torch import nn

_GROUPS = (128, 64, 32)
"""Weights of a row that share a scale: the sizes that vLLM's kernels have, the usual one first."""
_SMOOTHING = 0.8
"""How much of the activations' outliers goes over into the weights (Xiao et al. 2022); 0.8 is usual for LLaMAs."""
# The branches of a LLaMA's layer: what goes into the second, the first can have scaled.
_BRANCHES = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)


class Method(StrEnum):
    """How the language model's weights are rounded."""

    GPTQ = "gptq"
    """4 bits, each weight's error made up for by the next ones (Frantar et al. 2022)."""
    AWQ = "awq"
    """4 bits, channels with large activations scaled up before (Lin et al. 2023)."""
    INT8 = "int8"
    """8 bits of weights and activations: SmoothQuant, then GPTQ."""


def group_size(layers: "Iterable[nn.Linear]") -> int:
    """The largest usual group that divides the inputs of all `layers`.

    Raises:
        UserError: there is none.
    """
    widths = {layer.in_features for layer in layers}
    for size in _GROUPS:
        if all(width % size == 0 for width in widths):
            return size
    raise UserError(f"4 bits need inputs that divide by {_GROUPS[-1]}; this model's have {sorted(widths)}; try int8")


def modifiers(method: Method, layers: "Mapping[str, nn.Linear]", ignore: Sequence[str]) -> list[Any]:
    """What llm-compressor is to do, in its order.

    Args:
        method: which.
        layers: the linear layers to be rounded by their names in the whole model.
        ignore: the names of its other linear layers.

    Raises:
        UserError: the method does not go with these layers.
    """
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    others = list(ignore)
    if method is Method.INT8:
        _check_branches(layers)
        mappings: list[Any] = [
            ([_any(name) for name in behind], _any(first)) for first, behind in _BRANCHES if "layernorm" in first
        ]
        smoothing = SmoothQuantModifier(smoothing_strength=_SMOOTHING, mappings=mappings)
        return [smoothing, GPTQModifier(targets="Linear", scheme="W8A8", ignore=others)]
    size = group_size(layers.values())
    # AWQ's scales leave the weights of a group on one side of zero more often than GPTQ's do.
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=method is Method.GPTQ, strategy="group", group_size=size
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    if method is Method.GPTQ:
        return [GPTQModifier(config_groups=groups, ignore=others)]
    _check_branches(layers)
    mapped = [AWQMapping(_any(first), [_any(name) for name in behind]) for first, behind in _BRANCHES]
    return [AWQModifier(mappings=mapped), QuantizationModifier(config_groups=groups, ignore=others)]


def _any(name: str) -> str:
    """llm-compressor's way to say: in any layer of the language model."""
    return rf"re:.*language_model\.layers\.\d+\.{re.escape(name)}$"


def _check_branches(layers: "Mapping[str, nn.Linear]") -> None:
    ends = {".".join(name.split(".")[-2:]) for name in layers}
    if missing := [name for _, behind in _BRANCHES for name in behind if name not in ends]:
        raise UserError(f"this language model's layers are no LLaMA's: they have no {missing[0]}; try gptq")
