"""One annotated picture, and the same parts in others: the principle of SLiMe (Khani et al. 2024) on a frozen tower.

Where SLiMe optimises text embeddings against a diffusion model's attention, here each part is a linear discriminant of
the tower's patches, in closed form.
"""

from collections.abc import Mapping

import numpy as np

from fourfold.assistant.readouts.domain import Spread
from fourfold.prompts.errors import UserError


class Parts:
    """Parts that were shown in one picture.

    Args:
        features: of the annotated picture, (rows, columns, width), normalised.
        masks: for each part (rows, columns), 0..1: how much of each patch it covers.
        spread: of the patches of pictures of this sort.

    Raises:
        UserError: there is no part, or one of them covers nothing.
    """

    def __init__(self, features: np.ndarray, masks: Mapping[str, np.ndarray], spread: Spread) -> None:
        if not masks:
            raise UserError("no part is annotated; give a mask for each")
        self.names = tuple(masks)
        weights, biases = [], []
        for name, mask in masks.items():
            # Patches on a border show the neighbour too; a part of which every patch lies on one has those.
            inner = np.where(mask >= 0.5, mask, 0.0)
            weight = inner if inner.any() else mask
            if not weight.any():
                raise UserError(f"the part {name!r} covers nothing of its picture")
            mean = np.tensordot(weight / weight.sum(), features, 2)
            direction = spread.inverse @ (mean - spread.mean)
            weights.append(direction)
            biases.append(-0.5 * float(direction @ (mean + spread.mean)))
        self._weights, self._biases = np.stack(weights), np.array(biases, np.float32)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(parts, rows, columns): the log-odds of each part against anything else, for patches of equal covariance."""
        return np.einsum("hwd,nd->nhw", features, self._weights) + self._biases[:, None, None]

    def labels(self, features: np.ndarray) -> np.ndarray:
        """(rows, columns): the number of the likeliest part in `names`, -1 where anything else is likelier."""
        scores = self.scores(features)
        return np.where(scores.max(0) > 0, scores.argmax(0), -1)
