"""The KV cache of a running batch.

Every request owns a row of one tensor. A forward pass takes the new tokens of all rows laid end to end, (1, tokens,
width), whatever their number: one for a row that is decoding, a chunk of the prompt for one that has just come. So
requests join between steps, matrix products are shared, and no row waits for another's length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

_GRAIN = 256  # capacity grows in these steps


@dataclass(frozen=True)
class StepInput:
    """What one row brings to a forward pass.

    Attributes:
        row: its number in the KV cache.
        embeds: (tokens, text width) of a chunk of the prompt; None where `token` is given.
        token: the token drawn last.
        keep: of how many of the last positions logits are wanted.
    """

    row: int
    embeds: np.ndarray | None = None
    token: int = 0
    keep: int = 1

    @property
    def count(self) -> int:
        return 1 if self.embeds is None else len(self.embeds)


class KVCache:
    """Keys and values of the rows of a batch.

    Args:
        config: of the language model, with transformers' names.
        budget: bytes at most; one row of `context` tokens is always allowed.
        context: tokens a row may have.
        zeros: makes an array of a shape; by default of numpy and float32, whose memory torch can share.
        itemsize: bytes of one of its numbers.
    """

    def __init__(
        self,
        config: Any,
        budget: int,
        context: int,
        zeros: Callable[[tuple[int, ...]], Any] = partial(np.zeros, dtype=np.float32),
        itemsize: int = 4,
    ) -> None:
        self.layers = config.num_hidden_layers
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._zeros = zeros
        self.token_bytes = 2 * self.layers * self.heads * self.head_size * itemsize
        self._budget_tokens = max(budget // self.token_bytes, -(-context // _GRAIN) * _GRAIN)
        self.lengths: list[int] = []
        self._reserved: list[int] = []
        self._array = self._allocate(0, 0)

    def rows_of(self, tokens: int) -> int:
        """Rows that may grow to `tokens` each, when no others are there."""
        return max(1, self._budget_tokens // (-(-tokens // _GRAIN) * _GRAIN))

    @property
    def nbytes(self) -> int:
        """Bytes reserved; on a CPU the operating system hands them out only as rows fill."""
        return self._array.nbytes

    def admit(self, tokens: int) -> bool:
        """Add a row that may grow to `tokens`, as the last one; False where the budget has no room for it now."""
        reserved = [*self._reserved, tokens]
        rows, capacity = self._array.shape[2], self._array.shape[4]
        needed = -(-max(reserved) // _GRAIN) * _GRAIN
        if len(reserved) > rows or needed > capacity:
            # Rows by doubling, but only as far as the budget allows; and a capacity no longer needed is given back.
            for new_rows, new_capacity in (
                (max(rows, _power_of_two(len(reserved))), max(capacity, needed)),
                (len(reserved), needed),
            ):
                if new_rows * new_capacity <= self._budget_tokens:
                    self._resize(new_rows, new_capacity)
                    break
            else:
                return False
        self._reserved = reserved
        self.lengths.append(0)
        return True

    def remove(self, row: int) -> None:
        """Drop `row`; the last row takes its number, so that rows stay side by side."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            self._array[:, :, row, :, :length] = self._array[:, :, last, :, :length]
            self.lengths[row], self._reserved[row] = length, self._reserved[last]
        # What lies beyond a row's length is masked but still multiplied by zero: it has to be finite.
        self._array[:, :, last, :, : self.lengths.pop()] = 0
        self._reserved.pop()

    def read(self, row: int, start: int = 0) -> Any:
        """A copy of a row's keys and values from position `start` on, (layers, 2, heads, tokens, head size)."""
        end = self.lengths[row]
        stored = self._zeros((self.layers, 2, self.heads, end - start, self.head_size))
        stored[...] = self._array[:, :, row, :, start:end]
        return stored

    def write(self, row: int, stored: Any, length: int) -> None:
        """Begin an empty row with the first `length` tokens of what `read` gave."""
        self._array[:, :, row, :, :length] = stored[:, :, :, :length]
        self.lengths[row] = length

    def append(self, row: int, stored: Any) -> None:
        """Add tokens to a row whose keys and values, as `read` gave them, are known for just these positions."""
        begin, end = self.lengths[row], self.lengths[row] + stored.shape[3]
        self._array[:, :, row, :, begin:end] = stored
        self.lengths[row] = end

    def truncate(self, row: int, length: int) -> None:
        """Forget a row's tokens from position `length` on."""
        self._array[:, :, row, :, length : self.lengths[row]] = 0
        self.lengths[row] = min(length, self.lengths[row])

    def layer(self, index: int) -> tuple[Any, Any]:
        """Keys and values of a layer, each (rows, heads, capacity, head size)."""
        keys_values = self._array[index]
        return keys_values[0], keys_values[1]

    def _allocate(self, rows: int, capacity: int) -> Any:
        # numpy's zeros come from calloc: pages that no row has reached cost no memory.
        return self._zeros((self.layers, 2, rows, self.heads, capacity, self.head_size))

    def _resize(self, rows: int, capacity: int) -> None:
        old, self._array = self._array, self._allocate(rows, capacity)
        for row, length in enumerate(self.lengths):
            self._array[:, :, row, :, :length] = old[:, :, row, :, :length]


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
