"""Precision, recall and F1 of what was written, over all samples."""

from collections.abc import Hashable, Sequence

import numpy as np

from fourfold.eval.statistics import Estimate, bootstrap


def precision_recall(
    columns: Sequence[Sequence[float] | np.ndarray], clusters: Sequence[Hashable]
) -> dict[str, Estimate]:
    """F1, precision and recall in percent with bootstrap intervals over images; 0 where there is nothing to divide by.

    Args:
        columns: of each sample, four columns: how many written things are right, how many were written, how many true
            things were found, how many there are.
        clusters: the image of each sample.
    """

    def share(over: np.ndarray, under: np.ndarray) -> np.ndarray:
        return 100 * np.divide(over, under, out=np.zeros_like(over), where=under > 0)

    def f1(sums: np.ndarray) -> np.ndarray:
        precision, recall = share(sums[:, 0], sums[:, 1]), share(sums[:, 2], sums[:, 3])
        return share(2 * precision * recall, precision + recall) / 100

    return {
        "f1": bootstrap(columns, clusters, f1),
        "precision": bootstrap(columns, clusters, lambda sums: share(sums[:, 0], sums[:, 1])),
        "recall": bootstrap(columns, clusters, lambda sums: share(sums[:, 2], sums[:, 3])),
    }
