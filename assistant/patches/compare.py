"""Compare with good ones: how far each patch of a picture lies from all patches of pictures that are good.

The principle of PatchCore (Roth et al. 2022) on the tower's own features, without its core set: some dozen good
pictures are some thousand patches, which one product of matrices compares.
"""

from collections.abc import Sequence

import numpy as np

from fourfold.prompts.errors import UserError

_TOP = 3  # patches of a picture that its score is the mean of: one patch alone may be chance


class GoodPictures:
    """Patches of pictures that somebody calls good.

    Args:
        pictures: their features, (rows, columns, width) each, normalised; two at least, since what is usual among
            good pictures is measured by leaving one out at a time.

    Raises:
        UserError: there is one picture or none.
    """

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        if len(pictures) < 2:
            raise UserError(f"comparing needs two good pictures or more, and got {len(pictures)}")
        self._banks = [_rows(features) for features in pictures]
        usual = []
        for left_out, rows in enumerate(self._banks):
            others = np.concatenate([bank for place, bank in enumerate(self._banks) if place != left_out])
            usual.append(_score(_nearest(rows, others)))
        self.usual = float(max(usual))
        """The greatest score of a good picture among the others, before it is made 1."""

    def distances(self, features: np.ndarray) -> np.ndarray:
        """(rows, columns): how far each patch is from the nearest good one; 1 is as far as a good picture has them.

        Args:
            features: of a picture, (rows, columns, width), normalised.
        """
        rows, columns, _ = features.shape
        return _nearest(_rows(features), np.concatenate(self._banks)).reshape(rows, columns) / self.usual

    def score(self, features: np.ndarray) -> float:
        """Of the whole picture: the mean of its three greatest distances; above 1 none of the good ones is."""
        return _score(self.distances(features).ravel())


def _rows(features: np.ndarray) -> np.ndarray:
    return np.asarray(features, np.float32).reshape(-1, features.shape[-1])


def _nearest(rows: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """The Euclidean distance of each row to the nearest of the bank."""
    squares = (rows**2).sum(1)[:, None] + (bank**2).sum(1)[None] - 2 * rows @ bank.T
    return np.sqrt(np.maximum(squares.min(1), 0))


def _score(distances: np.ndarray) -> float:
    return float(np.sort(distances, axis=None)[-_TOP:].mean())
