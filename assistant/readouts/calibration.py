"""From scores to chances: logistic regressions on pictures that no read-out was learnt from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

EVIDENCE = 4
"""Of presence: best score after smoothing, mean of the best patches, score of the whole picture, logarithm of the
number of boxes that taught the read-out."""
_BEST_PART = 0.05  # of the patches
_OFFSET_PENALTY = 2.0  # a noun's own offset is a normal variable of variance 1 over this


@dataclass(frozen=True)
class PresenceCalibration:
    """Chance that a thing is there, by the kind of its read-out.

    Attributes:
        weights: (EVIDENCE + 1,) for each kind, the last one the bias.
    """

    weights: Mapping[str, np.ndarray]

    def __call__(self, kind: str, evidence: np.ndarray, offset: float = 0.0) -> float:
        """The chance, 0..1, of evidence (EVIDENCE,)."""
        weights = self.weights[kind]
        return sigmoid(float(evidence @ weights[:-1] + weights[-1] + offset))


@dataclass(frozen=True)
class BoxCalibration:
    """Chance that a box fits, of what the head says of it.

    Attributes:
        slope, bias: of the head's log-odds.
        later: added to the log-odds of a box that is read off after another one.
        group: the chance from which a box counts as one where several are wanted.
    """

    slope: float = 1.0
    bias: float = 0.0
    later: float = 0.0
    group: float = 0.3

    def __call__(self, chance: float, *, later: bool = False) -> float:
        """The calibrated chance, 0..1."""
        inside = min(max(chance, 1e-4), 1 - 1e-4)
        return sigmoid(self.slope * math.log(inside / (1 - inside)) + self.bias + self.later * later)


def evidence_of(scores: np.ndarray, pictures: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n, EVIDENCE) of scores (n, rows, columns), the picture's own scores (n,) and the read-outs' boxes (n,)."""
    flat = scores.reshape(len(scores), -1)
    best = max(1, round(flat.shape[1] * _BEST_PART))
    top = np.partition(flat, -best, axis=1)[:, -best:].mean(1)
    peak = smooth(scores).reshape(len(scores), -1).max(1)
    return np.stack([peak, top, pictures, np.log(np.maximum(boxes, 1))], axis=1)


def smooth(scores: np.ndarray) -> np.ndarray:
    """3 x 3 means of (n, rows, columns); at the edges of what is there."""
    _, rows, columns = scores.shape
    padded = np.pad(scores, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return np.mean([padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)


def fit_logistic(
    inputs: np.ndarray, labels: np.ndarray, penalty: float = 1.0, weight: np.ndarray | None = None
) -> np.ndarray:
    """(columns + 1,) weights of a logistic regression by Newton's method, the last one the bias.

    Args:
        inputs: (rows, columns).
        labels: (rows,), 0 or 1.
        penalty: of the squared weights after each column is scaled to unit variance, the bias excepted.
        weight: (rows,) of each row, 1 by default.
    """
    middle, spread = inputs.mean(0), inputs.std(0) + 1e-9
    rows = np.column_stack([(inputs - middle) / spread, np.ones(len(inputs))])
    weight = np.ones(len(rows)) if weight is None else weight
    punished = penalty * np.eye(rows.shape[1])
    punished[-1, -1] = 1e-6
    found = np.zeros(rows.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(rows @ found, -30, 30)))
        gradient = rows.T @ (weight * (chance - labels)) + punished @ found
        curvature = (rows * (weight * chance * (1 - chance))[:, None]).T @ rows + punished
        step = np.linalg.solve(curvature, gradient)
        found -= step
        if np.abs(step).max() < 1e-8:
            break
    slopes = found[:-1] / spread
    return np.append(slopes, found[-1] - slopes @ middle)


def fit_offsets(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, count: int, weight: np.ndarray
) -> np.ndarray:
    """(count,) what to add to the log-odds of each group of rows; few rows say little, see `_OFFSET_PENALTY`."""
    offsets = np.zeros(count)
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(logits + offsets[groups], -30, 30)))
        gradient = np.bincount(groups, weight * (chance - labels), count) + _OFFSET_PENALTY * offsets
        curvature = np.bincount(groups, weight * chance * (1 - chance), count) + _OFFSET_PENALTY
        offsets -= gradient / curvature
    return offsets


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
