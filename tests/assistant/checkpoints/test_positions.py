"""Position tables at other sizes, against the bicubic formula written out."""

import math

import pytest
import torch

from fourfold.assistant.checkpoints.positions import resize_position_embeddings


def _cubic(distance: float, a: float = -0.75) -> float:
    """Keys' cubic kernel with the coefficient that torch and PIL's successors use."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def _resized_by_hand(grid: list[list[float]], size: int) -> list[list[float]]:
    old = len(grid)
    result = []
    for row in range(size):
        y = (row + 0.5) * old / size - 0.5
        line = []
        for column in range(size):
            x = (column + 0.5) * old / size - 0.5
            total = 0.0
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = grid[min(max(i, 0), old - 1)][min(max(j, 0), old - 1)]
                    total += value * _cubic(y - i) * _cubic(x - j)
            line.append(total)
        result.append(line)
    return result


@pytest.mark.parametrize(("old", "new"), [(3, 5), (4, 2), (2, 7)])
def test_patches_follow_the_bicubic_formula(old: int, new: int) -> None:
    table = torch.randn(1 + old**2, 3, generator=torch.Generator().manual_seed(old))
    resized = resize_position_embeddings(table, new)
    assert resized.shape == (1 + new**2, 3)
    for channel in range(3):
        by_hand = _resized_by_hand(table[1:, channel].reshape(old, old).tolist(), new)
        torch.testing.assert_close(resized[1:, channel].reshape(new, new), torch.tensor(by_hand), atol=1e-5, rtol=1e-5)


def test_the_same_size_changes_nothing() -> None:
    table = torch.randn(17, 8)
    assert torch.equal(resize_position_embeddings(table, 4), table)


def test_the_class_row_is_untouched() -> None:
    table = torch.randn(17, 8)
    table[0] = 1000.0
    resized = resize_position_embeddings(table, 9)
    assert torch.equal(resized[0], table[0])
    assert resized[1:].abs().max() < 100, "the class row leaked into the grid"


def test_half_precision_is_resized_in_float32() -> None:
    table = torch.randn(17, 8).to(torch.bfloat16)
    resized = resize_position_embeddings(table, 8)
    assert resized.dtype == torch.bfloat16
    assert torch.equal(resized, resize_position_embeddings(table.float(), 8).to(torch.bfloat16))


@pytest.mark.parametrize("rows", [1, 16, 19])
def test_a_table_that_is_no_square_grid_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="square grid"):
        resize_position_embeddings(torch.zeros(rows, 4), 4)
