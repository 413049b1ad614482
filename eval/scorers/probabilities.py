"""Figures of probabilities: Brier score, expected calibration error, and the bins of a reliability diagram."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from fourfold.eval.statistics import Estimate, bootstrap_weighted, clustered_mean, wilson

BINS = 10
"""Of equal width, from 0 to 1."""


@dataclass(frozen=True)
class Bin:
    """Events that were predicted with about the same probability.

    Attributes:
        predicted: their mean probability, 0..1.
        observed: how many of them happened, 0..1; `low` and `high` are Wilson's 95 % interval.
        n: how many they are.
    """

    predicted: float
    observed: float
    low: float
    high: float
    n: int


def brier(rows: Sequence[Sequence[float]], right: Sequence[int], clusters: Sequence[Hashable]) -> Estimate:
    """Mean squared distance between probabilities and what was the case, summed over the options (Brier 1950).

    0 is perfect, 2 the worst; of two options it is twice (p - y)^2. A guess of 1/k each has 1 - 1/k.

    Args:
        rows: probabilities of the options of each question.
        right: number of the right option of each.
        clusters: image of each.
    """
    distances = [
        sum((p - float(option == answer)) ** 2 for option, p in enumerate(row))
        for row, answer in zip(rows, right, strict=True)
    ]
    return clustered_mean(distances, clusters, scale=1.0, ceiling=None)


def expected_calibration_error(
    predicted: Sequence[float], happened: Sequence[bool], clusters: Sequence[Hashable]
) -> Estimate:
    """Mean distance between predicted and observed frequency, over bins weighted by size (Naeini et al. 2015).

    Its interval is bootstrapped over images. Few questions alone make it larger than 0.

    Args:
        predicted: probability of an event, 0..1.
        happened: whether it did.
        clusters: image of each.
    """
    p, y = np.asarray(predicted, dtype=np.float64), np.asarray(happened, dtype=np.float64)
    bins = _bins(p)

    def error(weights: np.ndarray) -> float:
        gaps = np.bincount(bins, weights=weights * (p - y), minlength=BINS)
        return float(np.abs(gaps).sum() / weights.sum())

    return bootstrap_weighted(error, clusters)


def reliability(predicted: Sequence[float], happened: Sequence[bool]) -> list[Bin]:
    """The bins that are not empty, from the lowest."""
    p, y = np.asarray(predicted, dtype=np.float64), np.asarray(happened, dtype=np.float64)
    bins, found = _bins(p), []
    for number in np.unique(bins):
        chosen = bins == number
        share, count = float(y[chosen].mean()), int(chosen.sum())
        found.append(Bin(float(p[chosen].mean()), share, *wilson(share, count), count))
    return found


def fit_temperature(rows: Sequence[Sequence[float]], right: Sequence[int]) -> float:
    """The temperature, 0.05 to 20, by which log-likelihoods are to be divided for the right options to be likeliest.

    The mean negative log-likelihood is convex in the temperature's inverse; its slope, the difference between the
    expected score and that of the right option, is brought to zero by bisection.

    Args:
        rows: log-likelihoods of the options of each question.
        right: number of the right option of each.
    """
    low, high = 0.05, 20.0  # of the inverse
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = 0.0
        for row, answer in zip(rows, right, strict=True):
            scores = np.asarray(row, dtype=np.float64)
            weights = np.exp(middle * (scores - scores.max()))
            slope += float(weights @ scores / weights.sum() - scores[answer])
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / (low * high) ** 0.5


def _bins(predicted: np.ndarray) -> np.ndarray:
    return np.minimum((predicted * BINS).astype(np.int64), BINS - 1)
