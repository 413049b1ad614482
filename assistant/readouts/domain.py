"""What pictures of one sort look like to the tower, and how a thing is told from it: linear discriminants."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

SHRINKAGE = 0.1
"""Part of the mean variance that is added to each direction's; the figures are flat between 0.03 and 0.3."""


class Discriminants(NamedTuple):
    """Weights that tell something from everything: scores have mean 0 and standard deviation 1 over all there is.

    Attributes:
        weights: (n, width), float32.
        biases: (n,).
        scales: (n,) by which the weights were divided; times these they are linear in the differences of means.
    """

    weights: np.ndarray
    biases: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True)
class Spread:
    """Mean (width,) and covariance (width, width) of vectors."""

    mean: np.ndarray
    covariance: np.ndarray

    @cached_property
    def _added(self) -> float:
        return SHRINKAGE * float(np.trace(self.covariance)) / len(self.mean) + 1e-9

    @cached_property
    def inverse(self) -> np.ndarray:
        """Inverse of the covariance after shrinkage."""
        shrunk = self.covariance.astype(np.float64) + self._added * np.eye(len(self.mean))
        return np.linalg.inv(shrunk).astype(np.float32)

    def discriminants(self, differences: np.ndarray) -> Discriminants:
        """Of differences from the mean, (n, width)."""
        differences = differences.astype(np.float32)
        raw = differences @ self.inverse
        # raw (covariance + added) = difference, so the variance of the scores needs no second product of matrices.
        variance = (raw * differences).sum(1) - self._added * (raw * raw).sum(1)
        return self._unit(raw, variance)

    def unit(self, weights: np.ndarray) -> Discriminants:
        """Any weights (n, width), scaled in the same way."""
        return self._unit(weights, ((weights @ self.covariance) * weights).sum(1))

    def _unit(self, weights: np.ndarray, variance: np.ndarray) -> Discriminants:
        scales = np.sqrt(np.maximum(variance, 1e-12))
        unit = (weights / scales[:, None]).astype(np.float32)
        return Discriminants(unit, -(unit @ self.mean), scales)


@dataclass(frozen=True)
class Domain:
    """Pictures of one sort.

    Attributes:
        name: "photos", "scenes", ...
        patches: of all their patches.
        pictures: of whole pictures, each the mean of its patches.
    """

    name: str
    patches: Spread
    pictures: Spread

    def likeness(self, features: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """How like each patch is to those that score best: read-outs that are taught by the picture itself.

        Args:
            features: (rows, columns, width), normalised.
            scores: (n, rows, columns), in standard deviations.

        Returns:
            (n, rows, columns), in standard deviations.
        """
        flat = features.reshape(-1, features.shape[-1])
        each = scores.reshape(len(scores), -1)
        weight = np.exp(each - each.max(1, keepdims=True))
        seen = (weight / weight.sum(1, keepdims=True)) @ flat - self.patches.mean
        found = self.patches.discriminants(seen)
        return (found.weights @ flat.T + found.biases[:, None]).reshape(scores.shape)


class Moments:
    """Sums of patches and of pictures, from which mean and covariance follow; pictures come one by one."""

    def __init__(self, width: int) -> None:
        self.pictures = 0
        self._patches = 0
        self._sum, self._product = np.zeros(width), np.zeros((width, width))
        self._picture_sum, self._picture_product = np.zeros(width), np.zeros((width, width))
        self._waiting: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """Count a picture's features, (rows, columns, width)."""
        self.pictures += 1
        self._waiting.append(features.reshape(-1, features.shape[-1]))
        if len(self._waiting) >= 32:  # one product of many rows is quicker than many of few
            self._take_in()

    def domain(self, name: str) -> Domain:
        """What was counted so far."""
        self._take_in()
        patches = _spread(self._sum, self._product, self._patches)
        return Domain(name, patches, _spread(self._picture_sum, self._picture_product, self.pictures))

    def _take_in(self) -> None:
        if not self._waiting:
            return
        patches = np.concatenate(self._waiting)
        means = np.stack([picture.mean(0) for picture in self._waiting])
        self._sum += patches.sum(0)
        self._product += patches.T @ patches
        self._picture_sum += means.sum(0)
        self._picture_product += means.T @ means
        self._patches += len(patches)
        self._waiting = []


def _spread(total: np.ndarray, product: np.ndarray, count: int) -> Spread:
    mean = total / count
    return Spread(mean.astype(np.float32), (product / count - np.outer(mean, mean)).astype(np.float32))
