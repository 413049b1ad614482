"""Frozen linear layers with LoRA adapters, with their products in bfloat16."""

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from fourfold.assistant.model.bf16 import BF16Linear


def freeze_in_bf16(module: nn.Module) -> None:
    """Put a `BF16Linear` in the place of every frozen linear layer below `module`, with its adapter if it has one.

    Names of parameters stay as they are. Adapters with dropout are left to PEFT.
    """
    for name, child in module.named_children():
        if type(child) is nn.Linear and not child.weight.requires_grad:
            setattr(module, name, BF16Linear(child))
        elif isinstance(child, LoraLinear):
            if isinstance(child.lora_dropout["default"], nn.Identity):
                setattr(module, name, BF16LoraLinear(child))
            else:
                child.base_layer = BF16Linear(child.base_layer)
        else:
            freeze_in_bf16(child)


class BF16LoraLinear(BF16Linear):
    """A `BF16Linear` with a LoRA adapter, whose float32 parameters it shares with the PEFT layer it stands for.

    The adapter's additions, each a walk through memory, cost as much as its products: here they happen inside the
    products.
    """

    def __init__(self, layer: LoraLinear) -> None:
        super().__init__(layer.base_layer)
        self.lora_A, self.lora_B = layer.lora_A, layer.lora_B
        self.scale = float(layer.scaling["default"])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., in_features) → (..., out_features), in the input's dtype."""
        down, up = self.lora_A["default"].weight, self.lora_B["default"].weight
        if torch.compiler.is_compiling():  # the compiler joins these additions to what comes before and behind
            x = hidden.to(torch.bfloat16)
            assert isinstance(self.weight, torch.Tensor)
            inner = nn.functional.linear(x, down.to(torch.bfloat16))
            added = nn.functional.linear(inner, (up * self.scale).to(torch.bfloat16))
            out = (nn.functional.linear(x, self.weight) + added).to(hidden.dtype)
        else:
            out = _BF16Lora.apply(hidden, self.weight, down, up, self.scale)
        return out + self.bias.to(out.dtype) if isinstance(self.bias, torch.Tensor) else out


class _BF16Lora(torch.autograd.Function):
    """x W' + scale * x A' B' with every product in bfloat16; gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float):
        flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        down, up = down.to(torch.bfloat16), (up * scale).to(torch.bfloat16)
        inner = flat @ down.T
        out = nn.functional.linear(flat, weight).addmm_(inner, up.T)
        ctx.save_for_backward(flat, weight, down, up, inner)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor):
        flat, weight, down, up, inner = ctx.saved_tensors
        (gradient,) = gradients
        g = gradient.reshape(-1, gradient.shape[-1]).to(torch.bfloat16)
        g_inner = g @ up
        g_x = (g @ weight).addmm_(g_inner, down)
        g_down = (g_inner.T @ flat).float()
        g_up = (g.T @ inner).float() * ctx.scale
        return g_x.view(*gradient.shape[:-1], -1).to(gradient.dtype), None, g_down, g_up, None
