"""Figures of scores: area under the ROC curve, average precision, and the choice among candidates."""

import math
from collections.abc import Sequence

import numpy as np

Booleans = Sequence[bool] | np.ndarray
Numbers = Sequence[float] | np.ndarray


def auroc(truths: Booleans, scores: Numbers, weights: np.ndarray | None = None) -> float:
    """Area under the ROC curve, 0..1: how often a positive outscores a negative, ties half (Mann-Whitney).

    NaN where either class is absent. `weights` (n,) lets a bootstrap count a sample several times.
    """
    truth = np.asarray(truths, dtype=bool)
    score = np.asarray(scores, dtype=np.float64)
    weight = np.ones(len(score)) if weights is None else weights
    levels, level = np.unique(score, return_inverse=True)
    positive = np.bincount(level, weights=weight * truth, minlength=len(levels))
    negative = np.bincount(level, weights=weight * ~truth, minlength=len(levels))
    if positive.sum() == 0 or negative.sum() == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + negative / 2)) / (positive.sum() * negative.sum()))


def average_precision(truths: Booleans, scores: Numbers, weights: np.ndarray | None = None) -> float:
    """Average precision, 0..1: sum over thresholds of recall step x precision; NaN without positives."""
    truth = np.asarray(truths, dtype=bool)
    score = np.asarray(scores, dtype=np.float64)
    weight = np.ones(len(score)) if weights is None else weights
    levels, level = np.unique(-score, return_inverse=True)
    hits = np.cumsum(np.bincount(level, weights=weight * truth, minlength=len(levels)))
    seen = np.cumsum(np.bincount(level, weights=weight, minlength=len(levels)))
    if hits[-1] == 0:
        return float("nan")
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])


def best_candidate(scores: Sequence[float]) -> int:
    """Index of the highest log-likelihood; the first one wins a tie, so that the choice does not depend on sorting."""
    return int(np.argmax(np.asarray(scores, dtype=np.float64)))


def p_yes(candidates: Sequence[str], scores: Sequence[float] | None) -> float | None:
    """P(yes) against P(no) from their log-probabilities; None where these are not the candidates."""
    if scores is None or tuple(candidates) != ("yes", "no"):
        return None
    return 1 / (1 + math.exp(max(min(scores[1] - scores[0], 700.0), -700.0)))
