"""How many images a difference between two models needs to be seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from fourfold.eval.statistics import cluster_codes
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class Spread:
    """How the difference of two runs varies: its variance over whole images.

    Attributes:
        per_image: variance of an image's mean-of-all share, so that the standard error is sqrt(per_image / images).
        images: from how many it was estimated; 0 where it was assumed.
        why: where it is from.
    """

    per_image: float
    images: int
    why: str


def assumed_spread(
    baseline: float, difference: float, disagreement: float | None, per_image: float, icc: float
) -> Spread:
    """The spread of a paired difference of two shares, without any run.

    Of two runs that disagree about a share d of the questions, and differ by δ, a question's difference has the
    variance d - δ². Without a known d the runs are taken for independent, which is the most: p(1-p) + q(1-q). Questions
    about one image that are alike add (m - 1) times the intra-class correlation (Kish's design effect).

    Args:
        baseline: share right of the first, 0..1.
        difference: to be seen, 0..1.
        disagreement: share of questions that exactly one of the two gets right; None for independent runs.
        per_image: questions an image, m.
        icc: correlation of the differences within an image, 0..1.

    Raises:
        UserError: shares that cannot be.
    """
    other = baseline + difference
    if not (0 <= baseline <= 1 and 0 < abs(difference) < 1 and 0 <= other <= 1):
        raise UserError("--baseline and --difference are percent; both models must stay within 0 and 100")
    if disagreement is None:
        variance, why = baseline * (1 - baseline) + other * (1 - other), "two independent runs (no --disagreement)"
    elif not abs(difference) <= disagreement <= 1:
        raise UserError("two runs disagree at least as often as they differ: --disagreement is too small")
    else:
        variance, why = disagreement - difference**2, f"{100 * disagreement:g} % of questions with one of the two right"
    if per_image < 1 or not 0 <= icc <= 1:
        raise UserError("--per-image is at least 1, and --icc lies within 0 and 1")
    effect = 1 + (per_image - 1) * icc
    return Spread(variance * effect / per_image, 0, f"{why}; design effect {effect:g}")


def measured_spread(first: Mapping[str, float], second: Mapping[str, float], images: Mapping[str, str]) -> Spread:
    """The spread of the difference of two runs on their common questions; `images` names each question's image.

    Raises:
        UserError: fewer than two images are common.
    """
    common = [key for key in first if key in second]
    return _clustered([second[key] - first[key] for key in common], [images[key] for key in common], "these two runs")


def _clustered(values: Sequence[float], clusters: Sequence[str], why: str) -> Spread:
    codes, count = cluster_codes(clusters)
    if count < 2:
        raise UserError("one image tells nothing about how images differ; take runs on more")
    x = np.asarray(values, dtype=np.float64)
    sums = np.bincount(codes, weights=x - x.mean(), minlength=count)
    # The variance of the mean is C/(C-1) sum(sums²)/n² (as in `clustered_mean`); times the images, that of one image.
    variance = count / (count - 1) * float(np.sum(sums**2)) / len(x) ** 2
    if not variance:
        raise UserError(
            "the two runs differ by the same on every image, which tells nothing about how they vary; take others, or "
            "--baseline and --disagreement"
        )
    return Spread(variance * count, count, why)


def images_needed(spread: Spread, difference: float, power: float = 0.8, level: float = 0.05) -> int:
    """Images for a two-sided test at `level` to see `difference` (0..1) with probability `power`.

    (z(1 - level/2) + z(power))² variance / difference², the usual normal approximation.
    """
    if not 0 < power < 1 or not 0 < level < 1:
        raise UserError("--power and --level lie between 0 and 1")
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return max(2, math.ceil(z**2 * spread.per_image / difference**2))


def difference_seen(spread: Spread, images: int, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference, 0..1, that so many images show with probability `power`."""
    z = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return z * math.sqrt(spread.per_image / images)
