"""TinyViT-5M as the encoder of MobileSAM (Wu et al. 2022; Zhang et al. 2023), for inference.

Names follow the published weights, so that they load as they are. 1024 px in, a 64 x 64 grid out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 1024  # pixels
GRID = 64  # cells a side of what comes out
_WIDTHS = (64, 128, 160, 320)
_DEPTHS = (2, 2, 6, 2)
_HEADS = (2, 4, 5, 10)
_WINDOWS = (7, 7, 14, 7)
_EXPANSION = 4
_WIDTH_OUT = 256


class _ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class _InvertedBottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width * _EXPANSION
        self.conv1 = _ConvNorm(width, inner)
        self.conv2 = _ConvNorm(inner, inner, 3, groups=inner)
        self.conv3 = _ConvNorm(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class _Merging(nn.Module):
    """Between two stages: wider, and half as high and wide except before the last."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(inputs, outputs)
        self.conv2 = _ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = _ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class _WindowAttention(nn.Module):
    """Attention within a window, with a learnt bias for each distance across and down."""

    places: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        apart = (cells[:, None] - cells[None]).abs()
        self.register_buffer("places", apart[..., 0] * window + apart[..., 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, cells, width) to the same."""
        windows, cells, width = x.shape
        # Each head has its query, key and value side by side.
        qkv = self.qkv(self.norm(x)).view(windows, cells, self.heads, -1).transpose(1, 2)
        query, key, value = qkv.chunk(3, dim=-1)
        bias = self.attention_biases[:, self.places][None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).reshape(windows, cells, width))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width * _EXPANSION)
        self.fc2 = nn.Linear(width * _EXPANSION, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class _Block(nn.Module):
    """Attention in windows, a depthwise convolution across them, an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = _WindowAttention(width, heads, window)
        self.local_conv = _ConvNorm(width, width, 3, groups=width)
        self.mlp = _Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_conv(x + self._attend(x))
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        batch, width, rows, columns = x.shape
        size = self.window
        # Zeros to the right and below, which take part in the attention as they did in training.
        x = F.pad(x, (0, -columns % size, 0, -rows % size))
        down, across = x.shape[2] // size, x.shape[3] // size
        x = x.view(batch, width, down, size, across, size).permute(0, 2, 4, 3, 5, 1)
        x = self.attn(x.reshape(-1, size * size, width)).view(batch, down, across, size, size, width)
        x = x.permute(0, 5, 1, 3, 2, 4).reshape(batch, width, down * size, across * size)
        return x[:, :, :rows, :columns]


class _Stage(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        width = _WIDTHS[number]
        self.blocks = nn.Sequential(
            *(
                _InvertedBottleneck(width) if number == 0 else _Block(width, _HEADS[number], _WINDOWS[number])
                for _ in range(_DEPTHS[number])
            )
        )
        self.downsample: nn.Module = nn.Identity()
        if number + 1 < len(_WIDTHS):
            self.downsample = _Merging(width, _WIDTHS[number + 1], stride=1 if number == 2 else 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class _ChannelNorm(nn.LayerNorm):
    """A layer-norm over the channels of a (batch, channels, rows, columns)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TinyViT(nn.Module):
    """(batch, 3, 1024, 1024) normalised pixels to (batch, 256, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        first = _WIDTHS[0]
        stem = nn.Sequential(_ConvNorm(3, first // 2, 3, 2), nn.GELU(), _ConvNorm(first // 2, first, 3, 2))
        self.patch_embed = nn.ModuleDict({"seq": stem})
        self.layers = nn.Sequential(*map(_Stage, range(len(_WIDTHS))))
        self.neck = nn.Sequential(
            nn.Conv2d(_WIDTHS[-1], _WIDTH_OUT, 1, bias=False),
            _ChannelNorm(_WIDTH_OUT, eps=1e-6),
            nn.Conv2d(_WIDTH_OUT, _WIDTH_OUT, 3, padding=1, bias=False),
            _ChannelNorm(_WIDTH_OUT, eps=1e-6),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.neck(self.layers(self.patch_embed["seq"](pixels)))
