"""Whether a device computes fast in bfloat16, and linear layers that make use of it."""

import torch
from torch import nn


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones on the device.

    True on GPUs, and on processors with instructions for them; elsewhere bfloat16 is emulated and slower.
    """
    if device.type != "cpu":
        return True
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


class BF16Linear(nn.Module):
    """A frozen linear layer with its matrix in bfloat16, for activations that stay in float32.

    What autocast does, without casting the same frozen matrix in every step, and without leaving half precision
    between the layers, where processors are slow with it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", linear.weight.detach().to(torch.bfloat16), persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., in_features) → (..., out_features), in the input's dtype."""
        assert isinstance(self.weight, torch.Tensor)
        out = nn.functional.linear(hidden.to(torch.bfloat16), self.weight).to(hidden.dtype)
        return out + self.bias.to(out.dtype) if isinstance(self.bias, torch.Tensor) else out


def cast_linears_to_bf16(module: nn.Module) -> None:
    """Put a `BF16Linear` in the place of every linear layer below `module`, which is not to be trained any more."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, BF16Linear(child))
        else:
            cast_linears_to_bf16(child)
