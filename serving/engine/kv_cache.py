"""The KV cache of a running batch, and the attention that reads it.

Every request owns a row of one tensor. A forward pass takes the new tokens of all rows laid end to end, (1, tokens,
width), whatever their number: one for a row that is decoding, a stretch of the prompt for one that has just come. So
requests join between steps, matrix products are shared, and no row waits for another's length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedConfig

ATTENTION = "fourfold_slots"
_GRAIN = 256  # capacity grows in these steps


@dataclass(frozen=True)
class Stretch:
    """New tokens of one row: `count` of them, the first at position `start` of the row."""

    row: int
    start: int
    count: int


class KVCache:
    """Keys and values of the rows of a batch.

    Args:
        config: of the language model.
        dtype: of keys and values.
        device: where they live.
        budget: bytes at most; one row of `context` tokens is always allowed.
        context: tokens a row may have.
    """

    def __init__(
        self, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, budget: int, context: int
    ) -> None:
        self.layers = config.num_hidden_layers
        self.heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.dtype, self.device = dtype, device
        self.token_bytes = 2 * self.layers * self.heads * self.head_size * dtype.itemsize
        self._budget_tokens = max(budget // self.token_bytes, -(-context // _GRAIN) * _GRAIN)
        self.lengths: list[int] = []
        self._reserved: list[int] = []
        self._tensor = self._allocate(0, 0)

    @property
    def nbytes(self) -> int:
        """Bytes reserved; on a CPU the operating system hands them out only as rows fill."""
        return self._tensor.nbytes

    def admit(self, tokens: int) -> bool:
        """Add a row that may grow to `tokens`, as the last one; False where the budget has no room for it now."""
        reserved = [*self._reserved, tokens]
        rows, capacity = self._tensor.shape[2], self._tensor.shape[4]
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
            self._tensor[:, :, row, :, :length] = self._tensor[:, :, last, :, :length]
            self.lengths[row], self._reserved[row] = length, self._reserved[last]
        # What lies beyond a row's length is masked but still multiplied by zero: it has to be finite.
        self._tensor[:, :, last, :, : self.lengths.pop()] = 0
        self._reserved.pop()

    def read(self, row: int) -> torch.Tensor:
        """A copy of a row's keys and values, (layers, 2, heads, length, head size)."""
        return self._tensor[:, :, row, :, : self.lengths[row]].clone()

    def write(self, row: int, stored: torch.Tensor, length: int) -> None:
        """Begin an empty row with the first `length` tokens of what `read` gave."""
        self._tensor[:, :, row, :, :length] = stored[:, :, :, :length]
        self.lengths[row] = length

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, each (rows, heads, capacity, head size)."""
        keys_values = self._tensor[index]
        return keys_values[0], keys_values[1]

    def _allocate(self, rows: int, capacity: int) -> torch.Tensor:
        shape = (self.layers, 2, rows, self.heads, capacity, self.head_size)
        if self.device.type == "cpu" and rows:
            # numpy's zeros come from calloc: pages that no row has reached cost no memory; torch.zeros touches all.
            return (
                torch.from_numpy(np.zeros(math.prod(shape) * self.dtype.itemsize, np.uint8))
                .view(self.dtype)
                .view(shape)
            )
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _resize(self, rows: int, capacity: int) -> None:
        old, self._tensor = self._tensor, self._allocate(rows, capacity)
        for row, length in enumerate(self.lengths):
            self._tensor[:, :, row, :, :length] = old[:, :, row, :, :length]


class AttentionMetadata:
    """Where the tokens of one forward pass belong: made once a step, read by the attention of every layer.

    Rows with one new token come first and are attended to together; longer stretches one by one.

    Args:
        slots: the KV cache, whose lengths do not yet count the new tokens.
        stretches: the new tokens in the order in which they are laid end to end: single ones first.
    """

    def __init__(self, slots: KVCache, stretches: Sequence[Stretch]) -> None:
        device = slots.device
        singles = [stretch for stretch in stretches if stretch.count == 1]
        self.long = [stretch for stretch in stretches if stretch.count > 1]
        if list(stretches) != singles + self.long:
            raise ValueError("rows with a single new token come first")
        self.slots = slots
        self.singles = len(singles)
        positions = [place for s in stretches for place in range(s.start, s.start + s.count)]
        self.positions = torch.tensor([positions], device=device)
        if singles:
            rows = [stretch.row for stretch in singles]
            self.rows = torch.tensor(rows, device=device)
            self.places = self.positions[0, : len(singles)]
            # A run of neighbouring rows is a view of the cache; anything else has to be gathered.
            self.run = (
                slice(rows[0], rows[0] + len(rows)) if rows == list(range(rows[0], rows[0] + len(rows))) else None
            )
            self.longest = max(stretch.start for stretch in singles) + 1
            self.mask: torch.Tensor | None = None
            if any(stretch.start + 1 != self.longest for stretch in singles):
                unseen = torch.arange(self.longest, device=device) > self.places[:, None]
                self.mask = torch.zeros(unseen.shape, dtype=slots.dtype, device=device)
                self.mask = self.mask.masked_fill_(unseen, -torch.inf)[:, None, None]
        self.causal = [self._causal_mask(stretch) for stretch in self.long]

    def _causal_mask(self, stretch: Stretch) -> torch.Tensor | None:
        """(count, start + count) additive mask of a stretch that has something before it."""
        if stretch.start == 0:
            return None
        slots = self.slots
        mask = torch.full((stretch.count, stretch.start + stretch.count), -torch.inf, device=slots.device)
        return mask.triu_(stretch.start + 1).to(slots.dtype)


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    layout: AttentionMetadata,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Store new keys and values in their rows and attend to each row's own past (transformers' attention interface).

    Args:
        module: the attention layer.
        query: (1, heads, tokens, head size).
        key: (1, key-value heads, tokens, head size).
        value: as key.
        attention_mask: None; the layout knows.
        scaling: of the dot product.
        layout: of this step.
        **kwargs: what else transformers hands on.

    Returns:
        (1, tokens, heads, head size), and no weights.
    """
    keys, values = layout.slots.layer(cast(int, module.layer_idx))
    heads, size = query.shape[1], query.shape[3]
    groups = heads // key.shape[1]
    attend = torch.nn.functional.scaled_dot_product_attention
    parts = []
    count = layout.singles
    if count:
        keys[layout.rows, :, layout.places] = key[0, :, :count].transpose(0, 1)
        values[layout.rows, :, layout.places] = value[0, :, :count].transpose(0, 1)
        rows = layout.rows if layout.run is None else layout.run
        # Query heads that share a key-value head stand where a sequence would: no copies of keys for each of them.
        grouped = query[0, :, :count].transpose(0, 1).reshape(count, heads // groups, groups, size)
        past_keys, past_values = keys[rows, :, : layout.longest], values[rows, :, : layout.longest]
        out = attend(grouped, past_keys, past_values, attn_mask=layout.mask, scale=scaling)
        parts.append(out.reshape(1, count, heads, size))
    for stretch, mask in zip(layout.long, layout.causal, strict=True):
        new = slice(count, count + stretch.count)
        end = stretch.start + stretch.count
        keys[stretch.row, :, stretch.start : end] = key[0, :, new]
        values[stretch.row, :, stretch.start : end] = value[0, :, new]
        past_keys, past_values = keys[stretch.row, None, :, :end], values[stretch.row, None, :, :end]
        if groups > 1:
            past_keys = past_keys.repeat_interleave(groups, dim=1)
            past_values = past_values.repeat_interleave(groups, dim=1)
        out = attend(query[:, :, new], past_keys, past_values, attn_mask=mask, is_causal=mask is None, scale=scaling)
        parts.append(out.transpose(1, 2))
        count = new.stop
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)), None


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


AttentionInterface.register(ATTENTION, slot_attention)
