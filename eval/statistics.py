"""How sure a number is: errors clustered by image, bootstrap intervals, and the paired comparison of two runs.

Questions about one image are not independent, so every figure here resamples or sums whole images ("clusters"), never
single questions.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

BOOTSTRAP_DRAWS, WEIGHTED_DRAWS = 2000, 400
"""How often whole clusters are drawn with replacement; the seed is always 0, so that a report can be made again."""
PERMUTATIONS, _BLOCK = 10_000, 500


@dataclass(frozen=True)
class Estimate:
    """A figure with its uncertainty, all in the unit of `value`.

    `low` and `high` bound the 95 % interval; `n` counts samples, `clusters` the images that they belong to.
    `standard_error` is None where one cluster leaves nothing to estimate it from.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """A plain dict, in the order of the fields."""
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def cluster_codes(clusters: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Number the clusters by first appearance: int codes (n,) and how many there are."""
    index: dict[Hashable, int] = {}
    codes = np.array([index.setdefault(cluster, len(index)) for cluster in clusters], dtype=np.int64)
    return codes, len(index)


def clustered_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    scale: float = 100.0,
    ceiling: float | None = 1.0,
) -> Estimate:
    """Mean of `values` times `scale`, with its standard error clustered by image.

    Variance C/(C-1) * sum over clusters of (sum of residuals)^2 / n^2 (Liang & Zeger 1986 for a mean, with the usual
    small-sample factor). The interval is value +- 1.96 standard errors, kept within 0..`ceiling`; where every value is
    0 or every value is the ceiling, which would give an interval of no width, it is Wilson's with one observation a
    cluster.

    Args:
        values: 0..`ceiling` each, or any numbers where the ceiling is None.
        clusters: the image of each value.
        scale: 100 for percent.
        ceiling: what a perfect value is, before scaling.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values for {len(clusters)} clusters")
    if not len(values):
        raise ValueError("no values to average")
    x = np.asarray(values, dtype=np.float64)
    codes, count = cluster_codes(clusters)
    mean = float(x.mean())
    if count < 2:
        return Estimate(mean * scale, None, None, None, len(x), count)
    sums = np.bincount(codes, weights=x - mean, minlength=count)
    error = float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(x))
    low, high = mean - Z95 * error, mean + Z95 * error
    if ceiling is not None and (np.all(x == 0) or np.all(x == ceiling)):
        low, high = (bound * ceiling for bound in wilson(mean / ceiling, count))
    elif ceiling is not None:
        low, high = max(low, 0.0), min(high, ceiling)
    return Estimate(mean * scale, error * scale, low * scale, high * scale, len(x), count)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share 0..1 seen on n observations (Wilson 1927)."""
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def bootstrap(
    columns: Sequence[Sequence[float] | np.ndarray],
    clusters: Sequence[Hashable],
    statistic: Callable[[np.ndarray], np.ndarray],
) -> Estimate:
    """Percentile bootstrap over clusters for a statistic of column sums, such as F1 from true and false positives.

    Args:
        columns: k sequences of n numbers; `statistic` sees their sums.
        clusters: the image of each of the n samples.
        statistic: from sums of shape (draws, k) to values of shape (draws,); a draw without a value may be NaN.
    """
    table = np.asarray(columns, dtype=np.float64)
    codes, count = cluster_codes(clusters)
    per_cluster = np.stack([np.bincount(codes, weights=column, minlength=count) for column in table], axis=1)
    value = float(statistic(per_cluster.sum(axis=0, keepdims=True))[0])
    drawn = statistic(_draw(count, BOOTSTRAP_DRAWS) @ per_cluster) if count > 1 else np.empty(0)
    return _percentiles(value, drawn, table.shape[1], count)


def bootstrap_weighted(statistic: Callable[[np.ndarray], float], clusters: Sequence[Hashable]) -> Estimate:
    """Percentile bootstrap over clusters for a statistic of sample weights that no sums give (average precision)."""
    codes, count = cluster_codes(clusters)
    value = statistic(np.ones(len(codes)))
    weights = _draw(count, WEIGHTED_DRAWS) if count > 1 else ()
    drawn = np.array([statistic(row[codes].astype(np.float64)) for row in weights])
    return _percentiles(value, drawn, len(codes), count)


@lru_cache(maxsize=1)  # drawing takes longest, and the figures of a run share it
def _draw(count: int, draws: int) -> np.ndarray:
    """How often each of `count` clusters is drawn, with replacement, in each of `draws`: (draws, count)."""
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=draws)
    weights.setflags(write=False)
    return weights


def _percentiles(value: float, drawn: np.ndarray, n: int, clusters: int) -> Estimate:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or np.ptp(drawn) == 0:  # an interval of no width would claim to be sure
        return Estimate(value, None, None, None, n, clusters)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(drawn.std(ddof=1)), float(low), float(high), n, clusters)


@dataclass(frozen=True)
class Paired:
    """Two runs on the same samples: `difference` is second minus first, `better`/`worse` count samples that moved."""

    difference: Estimate
    p_value: float
    better: int
    worse: int
    equal: int


def paired(first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable]) -> Paired:
    """Compare two runs sample by sample: clustered interval of the difference, sign-flip test over whole images.

    The p value is two-sided, (hits + 1) / (PERMUTATIONS + 1) (Phipson & Smyth 2010), so that it is never zero.
    """
    if len(first) != len(second) or len(first) != len(clusters):
        raise ValueError("paired runs need the same samples")
    change = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    estimate = clustered_mean(change, clusters, ceiling=None)
    codes, count = cluster_codes(clusters)
    sums = np.bincount(codes, weights=change, minlength=count)
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(PERMUTATIONS // _BLOCK):
        signs = generator.integers(0, 2, size=(_BLOCK, count), dtype=np.int8) * 2 - 1
        # A hair of slack, so that flips equal to the observed sum count as such in floating point.
        hits += int(np.sum(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9))
    return Paired(
        estimate,
        (hits + 1) / (PERMUTATIONS + 1),
        int(np.sum(change > 0)),
        int(np.sum(change < 0)),
        int(np.sum(change == 0)),
    )
