"""What read-outs read: the tower's patches of a picture, normalised, and the parts of a picture that boxes cover."""

from collections.abc import Sequence

import numpy as np

from fourfold.assistant.grounding import Box

_EPSILON = 1e-5  # of torch's layer_norm


def normalised(features: np.ndarray) -> np.ndarray:
    """Layer norm of each patch over its width, without weights: (rows, columns, width) → the same, float32."""
    features = np.asarray(features, np.float32)
    centred = features - features.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + _EPSILON)


def coverage(box: Box, rows: int, columns: int) -> np.ndarray:
    """(rows, columns), 0..1: the part of each cell of a grid that a box covers."""

    def along(low: float, high: float, cells: int) -> np.ndarray:
        edge = np.arange(cells)
        return np.clip(np.minimum(high * cells, edge + 1) - np.maximum(low * cells, edge), 0, 1)

    return np.outer(along(box.y1, box.y2, rows), along(box.x1, box.x2, columns)).astype(np.float32)


def patches_of(box: Box, rows: int, columns: int) -> np.ndarray:
    """(rows, columns), sum 1: the patches that stand for a box, those that it covers by half or more.

    A box that covers none by half has all that it touches, by what it covers of them.

    Raises:
        ValueError: the box has no area.
    """
    covered = coverage(box, rows, columns)
    weight = np.where(covered >= 0.5, covered, 0)
    if not weight.any():
        weight = covered
    if not weight.any():
        raise ValueError(f"a box without area shows nothing: {box.as_tuple()}")
    return weight / weight.sum()


def distinct(boxes: Sequence[Box], overlap: float = 0.8) -> list[Box]:
    """Boxes without those that repeat an earlier one, and without those that have no area."""
    kept: list[Box] = []
    for box in boxes:
        if box.area > 0 and all(box.iou(other) < overlap for other in kept):
            kept.append(box)
    return kept
