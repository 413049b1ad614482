"""By what prompts and pictures are known again, and the features of images that are kept between requests."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from PIL import Image

PromptKey = int | bytes
"""What stands at a position of a prompt: a token, or (for a visual token) the digest of its whole image: all of it, so
that nobody can make two pictures look the same to the cache."""


def image_digest(image: Image.Image) -> bytes:
    """SHA-256 of an image's mode, size and decoded pixels: equal for equal pictures, whatever file they came in."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.digest()


class FeatureCache:
    """Vision-tower output (patches, vision width) by image digest, the least recently used going first.

    Args:
        limit: bytes at most.
    """

    def __init__(self, limit: int) -> None:
        self.nbytes = 0
        self._limit = limit
        self._features: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._features

    def get(self, digest: bytes) -> np.ndarray | None:
        if (features := self._features.get(digest)) is not None:
            self._features.move_to_end(digest)
        return features

    def put(self, digest: bytes, features: np.ndarray) -> None:
        """Keep the features, unless they alone are more than the limit."""
        if digest in self._features or features.nbytes > self._limit:
            return
        self._features[digest] = features
        self.nbytes += features.nbytes
        while self.nbytes > self._limit:
            self.nbytes -= self._features.popitem(last=False)[1].nbytes


def shared_length(first: Sequence[PromptKey], second: Sequence[PromptKey]) -> int:
    """How many positions the two have in common from the start."""
    for place, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return place
    return min(len(first), len(second))
