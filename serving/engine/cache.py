"""What is worth keeping between requests: image features, and the keys and values of conversations."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
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
        self._features: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._features

    def get(self, digest: bytes) -> torch.Tensor | None:
        if (features := self._features.get(digest)) is not None:
            self._features.move_to_end(digest)
        return features

    def put(self, digest: bytes, features: torch.Tensor) -> None:
        """Keep the features, unless they alone are more than the limit."""
        if digest in self._features or features.nbytes > self._limit:
            return
        self._features[digest] = features
        self.nbytes += features.nbytes
        while self.nbytes > self._limit:
            self.nbytes -= self._features.popitem(last=False)[1].nbytes


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values (layers, 2, heads, tokens, head size) of a conversation so far, under one adapter."""

    lora_id: int
    keys: tuple[PromptKey, ...]
    stored: torch.Tensor


class PrefixCache:
    """Conversations by what they begin with, the least recently used going first.

    Args:
        limit: bytes at most.
    """

    def __init__(self, limit: int) -> None:
        self.nbytes = 0
        self._limit = limit
        self._entries: list[Prefix] = []  # least recently used first

    def longest(self, lora_id: int, keys: Sequence[PromptKey]) -> tuple[Prefix | None, int]:
        """The entry that shares most with `keys` from the start, and how many positions."""
        best, length = None, 0
        for entry in self._entries:
            if entry.lora_id == lora_id and (common := shared_length(entry.keys, keys)) > length:
                best, length = entry, common
        if best is not None:
            self._entries.remove(best)
            self._entries.append(best)
        return best, length

    def exact(self, lora_id: int, keys: Sequence[PromptKey]) -> Prefix | None:
        """The entry of just these positions."""
        for entry in self._entries:
            if (
                entry.lora_id == lora_id
                and len(entry.keys) == len(keys)
                and shared_length(entry.keys, keys) == len(keys)
            ):
                self._entries.remove(entry)
                self._entries.append(entry)
                return entry
        return None

    def covers(self, lora_id: int, keys: Sequence[PromptKey]) -> bool:
        """Whether a kept conversation begins with all of `keys`."""
        return self.longest(lora_id, keys)[1] == len(keys)

    def put(self, lora_id: int, keys: Sequence[PromptKey], stored: torch.Tensor) -> None:
        """Keep a conversation in place of its own beginnings, unless it alone is more than the limit."""
        if stored.nbytes > self._limit:
            return
        self._drop(e for e in self._entries if e.lora_id == lora_id and shared_length(e.keys, keys) == len(e.keys))
        self._entries.append(Prefix(lora_id, tuple(keys), stored))
        self.nbytes += stored.nbytes
        while self.nbytes > self._limit:
            self._drop(self._entries[:1])

    def forget(self, lora_id: int) -> None:
        """Drop everything that was computed under one adapter."""
        self._drop(entry for entry in self._entries if entry.lora_id == lora_id)

    def _drop(self, entries: Iterable[Prefix]) -> None:
        for entry in list(entries):
            self._entries.remove(entry)
            self.nbytes -= entry.stored.nbytes


def shared_length(first: Sequence[PromptKey], second: Sequence[PromptKey]) -> int:
    """How many positions the two have in common from the start."""
    for place, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return place
    return min(len(first), len(second))
