"""Keys and values of what was read, for all that begins alike: questions about one picture, turns of one conversation.

A radix tree by what stands in prompts (SGLang's RadixAttention): what prompts share is kept once, and a branch grows
where they part.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fourfold.serving.engine.cache import PromptKey, shared_length


@dataclass(frozen=True)
class Prefix:
    """What is known of a prompt.

    Attributes:
        length: tokens of it, from its start on.
        parts: their keys and values (layers, 2, heads, tokens, head size), to be laid end to end.
    """

    length: int
    parts: tuple[Any, ...]


@dataclass(eq=False)
class _Node:
    """Some tokens in a row that follow those of `parent`."""

    lora_id: int
    keys: tuple[PromptKey, ...]
    stored: Any
    parent: "_Node | None" = None
    children: "dict[PromptKey, _Node]" = field(default_factory=dict)

    def path(self) -> "Iterator[_Node]":
        """From here up to the root, which holds nothing and is left out."""
        node: _Node | None = self
        while node is not None and node.keys:
            yield node
            node = node.parent


class PrefixCache:
    """Prompts that were read, the least recently used ends going first.

    Args:
        limit: bytes at most.
    """

    def __init__(self, limit: int) -> None:
        self.nbytes = 0
        self._limit = limit
        self._roots: dict[int, _Node] = {}
        self._exact: dict[tuple[int, tuple[PromptKey, ...]], _Node] = {}
        # Whoever is used makes room for its ancestors behind it: the first one never has children.
        self._least_recent: OrderedDict[_Node, None] = OrderedDict()

    def longest(self, lora_id: int, keys: Sequence[PromptKey]) -> Prefix:
        """The most that is known of a prompt that begins with `keys`."""
        node, length, within = self._find(lora_id, keys)
        for exact in self._exact.values():
            if exact.lora_id == lora_id and (common := shared_length(exact.keys, keys)) > length:
                node, length, within = exact, common, common
        self._use(node)
        parts = [above.stored for above in node.path()]
        if parts:
            parts[0] = parts[0][:, :, :, :within]
        return Prefix(length, tuple(parts[::-1]))

    def put(self, lora_id: int, keys: Sequence[PromptKey], read: Callable[[int], Any]) -> None:
        """Keep what is not known yet of a prompt, unless the prompt alone is more than the limit.

        Args:
            keys: what stands in it.
            read: gives its keys and values from a position on, in memory of their own.
        """
        node, length, within = self._find(lora_id, keys)
        if length < len(keys):
            stored = read(length)
            if stored.nbytes // (len(keys) - length) * len(keys) > self._limit:
                return
            if within < len(node.keys):
                node = self._split(node, within)
            parent, node = node, _Node(lora_id, tuple(keys[length:]), stored, node)
            parent.children[node.keys[0]] = node
            self._keep(node)
        self._use(node)
        self._make_room()

    def exact(self, lora_id: int, keys: Sequence[PromptKey]) -> Any | None:
        """What `put_exact` kept under just these keys."""
        node = self._exact.get((lora_id, tuple(keys)))
        if node is None:
            return None
        self._use(node)
        return node.stored

    def put_exact(self, lora_id: int, keys: Sequence[PromptKey], stored: Any) -> None:
        """Keep keys and values for those who need them from one reading, unless they are more than the limit.

        What was read in other pieces may be rounded differently where torch computes.
        """
        node = _Node(lora_id, tuple(keys), stored)
        if stored.nbytes <= self._limit and (lora_id, node.keys) not in self._exact:
            self._exact[lora_id, node.keys] = node
            self._keep(node)
            self._make_room()

    def forget(self, lora_id: int) -> None:
        """Drop everything that was computed under one adapter."""
        for node in [node for node in self._least_recent if node.lora_id == lora_id]:
            self._drop(node)
        self._roots.pop(lora_id, None)

    def _find(self, lora_id: int, keys: Sequence[PromptKey]) -> tuple[_Node, int, int]:
        """The last node on the way along `keys`, how many of them that is, and how many of the node's own."""
        node = self._roots.setdefault(lora_id, _Node(lora_id, (), None))
        length = within = 0
        while within == len(node.keys) and length < len(keys) and (child := node.children.get(keys[length])):
            node, within = child, shared_length(child.keys, keys[length : length + len(child.keys)])
            length += within
        return node, length, within

    def _split(self, node: _Node, length: int) -> _Node:
        """Part a node's first `length` tokens from the others; the upper one of the two."""
        # Copies: a view would keep all of the memory for as long as either is kept. Both before anything changes, since
        # there may be no memory for them.
        first, rest = joined([node.stored[:, :, :, :length]]), joined([node.stored[:, :, :, length:]])
        upper = _Node(node.lora_id, node.keys[:length], first, node.parent)
        assert node.parent is not None
        node.parent.children[upper.keys[0]] = upper
        node.keys, node.stored = node.keys[length:], rest
        node.parent = upper
        upper.children[node.keys[0]] = node
        self._least_recent[upper] = None
        return upper

    def _keep(self, node: _Node) -> None:
        self._least_recent[node] = None
        self.nbytes += node.stored.nbytes

    def _use(self, node: _Node) -> None:
        for used in node.path():
            self._least_recent.move_to_end(used)

    def _make_room(self) -> None:
        while self.nbytes > self._limit:
            self._drop(next(iter(self._least_recent)))

    def _drop(self, node: _Node) -> None:
        del self._least_recent[node]
        self.nbytes -= node.stored.nbytes
        if node.parent is None:
            del self._exact[node.lora_id, node.keys]
        else:
            del node.parent.children[node.keys[0]]


def joined(parts: Sequence[Any]) -> Any:
    """Keys and values that lie end to end in one array of its own: of numpy, or of torch where that computes."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=3)
    import torch

    return torch.cat(list(parts), dim=3)
