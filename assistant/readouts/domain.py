"""What pictures of one sort look like to the tower, and how a thing is told from it: linear discriminants."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SHRINKAGE = 0.1
"""Part of the mean variance that is added to each direction's; the figures are flat between 0.03 and 0.3."""


@dataclass(frozen=True)
class Domain:
    """Mean and covariance of all patches of the pictures of one sort.

    Attributes:
        name: "photos", "scenes", ...
        mean: (width,).
        covariance: (width, width).
        picture_mean, picture_covariance: the same of whole pictures, each the mean of its patches.
    """

    name: str
    mean: np.ndarray
    covariance: np.ndarray
    picture_mean: np.ndarray
    picture_covariance: np.ndarray

    @cached_property
    def inverse(self) -> np.ndarray:
        """Inverse of the covariance after shrinkage, (width, width)."""
        return _shrunk_inverse(self.covariance)

    @cached_property
    def picture_inverse(self) -> np.ndarray:
        """The same for whole pictures."""
        return _shrunk_inverse(self.picture_covariance)

    def discriminant(self, difference: np.ndarray) -> np.ndarray:
        """(width,) weights that tell patches apart by a difference of means; unscaled, so that they add up."""
        return self.inverse @ difference

    def scaled(self, weights: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights under which all patches of the domain score 0 on average, with standard deviation 1, and the bias."""
        scale = float(np.sqrt(max(weights @ self.covariance @ weights, 1e-12)))
        unit = (weights / scale).astype(np.float32)
        return unit, -float(unit @ self.mean)

    def likeness(self, features: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """How like each patch is to those that score best: a read-out taught by the picture itself.

        Args:
            features: (rows, columns, width), normalised.
            scores: (rows, columns), in standard deviations.

        Returns:
            (rows, columns), in standard deviations.
        """
        flat = features.reshape(-1, features.shape[-1])
        weight = np.exp(scores.ravel() - scores.max())
        seen = (weight / weight.sum()) @ flat - self.mean
        unit, bias = self.scaled(self.discriminant(seen.astype(np.float32)))
        return (flat @ unit + bias).reshape(scores.shape)


def _shrunk_inverse(covariance: np.ndarray) -> np.ndarray:
    width = len(covariance)
    added = SHRINKAGE * np.trace(covariance) / width + 1e-9
    return np.linalg.inv(covariance.astype(np.float64) + added * np.eye(width)).astype(np.float32)


class Moments:
    """Sums of patches and of pictures, from which mean and covariance follow; pictures come one by one."""

    def __init__(self, width: int) -> None:
        self.pictures, self.patches = 0, 0
        self._sum, self._product = np.zeros(width), np.zeros((width, width))
        self._picture_sum, self._picture_product = np.zeros(width), np.zeros((width, width))
        self._waiting: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """Count a picture's features, (rows, columns, width)."""
        self._waiting.append(features.reshape(-1, features.shape[-1]))
        if len(self._waiting) >= 32:  # one product of many rows is quicker than many of few
            self._take_in()

    def domain(self, name: str) -> Domain:
        """What was counted so far."""
        self._take_in()
        mean, picture_mean = self._sum / self.patches, self._picture_sum / self.pictures
        return Domain(
            name,
            mean.astype(np.float32),
            (self._product / self.patches - np.outer(mean, mean)).astype(np.float32),
            picture_mean.astype(np.float32),
            (self._picture_product / self.pictures - np.outer(picture_mean, picture_mean)).astype(np.float32),
        )

    def _take_in(self) -> None:
        if not self._waiting:
            return
        patches = np.concatenate(self._waiting)
        means = np.stack([picture.mean(0) for picture in self._waiting])
        self._sum += patches.sum(0)
        self._product += patches.T @ patches
        self._picture_sum += means.sum(0)
        self._picture_product += means.T @ means
        self.patches += len(patches)
        self.pictures += len(means)
        self._waiting = []
