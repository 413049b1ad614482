"""Position embeddings of a ViT at another image size."""

import math

import torch
from torch.nn import functional


def resize_position_embeddings(table: torch.Tensor, grid: int) -> torch.Tensor:
    """Interpolate learnt positions to another patch grid, once, when a checkpoint is made.

    Bicubic in float32, as ViTs are usually fine-tuned to another size (Dosovitskiy et al. 2021, section 3.2). The
    class token has no place in the grid and keeps its row.

    Args:
        table: (1 + g², width): the class token's row, then the patches in reading order.
        grid: patches in a row of the new grid.

    Returns:
        (1 + grid², width) in the table's dtype; the table itself where the grid is the same.

    Raises:
        ValueError: the table does not hold one class row and a square grid.
    """
    rows, width = table.shape
    old = math.isqrt(rows - 1)
    if old**2 != rows - 1 or old == 0:
        raise ValueError(f"a position table of {rows} rows is not one class row and a square grid")
    if grid == old:
        return table
    patches = table[1:].float().reshape(1, old, old, width).permute(0, 3, 1, 2)
    resized = functional.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    resized = resized.permute(0, 2, 3, 1).reshape(grid**2, width).to(table.dtype)
    return torch.cat([table[:1], resized])
