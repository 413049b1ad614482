"""The KV cache of a running batch, and the attention that reads it.

Every request owns a row of one tensor. A forward pass takes the new tokens of all rows laid end to end, (1, tokens,
width), whatever their number: one for a row that is decoding, a chunk of the prompt for one that has just come. So
requests join between steps, matrix products are shared, and no row waits for another's length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import AttentionInterface, PreTrainedConfig

ATTENTION = "fourfold_kv_cache"
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
    embeds: torch.Tensor | None = None
    token: int = 0
    keep: int = 1

    @property
    def count(self) -> int:
        return 1 if self.embeds is None else len(self.embeds)


@dataclass(frozen=True)
class PrefillChunk:
    """Several new tokens of one row, the first at position `start` of the row.

    `mask` is additive, (count, start + count); None where nothing stands before them and the mask is simply causal.
    """

    row: int
    start: int
    count: int
    mask: torch.Tensor | None


class KVCache:
    """Keys and values of the rows of a batch.

    Args:
        config: of the language model.
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

    def rows_of(self, tokens: int) -> int:
        """Rows that may grow to `tokens` each, when no others are there."""
        return max(1, self._budget_tokens // (-(-tokens // _GRAIN) * _GRAIN))

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

    def truncate(self, row: int, length: int) -> None:
        """Forget a row's tokens from position `length` on."""
        self._tensor[:, :, row, :, length : self.lengths[row]] = 0
        self.lengths[row] = min(length, self.lengths[row])

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, each (rows, heads, capacity, head size)."""
        keys_values = self._tensor[index]
        return keys_values[0], keys_values[1]

    def _allocate(self, rows: int, capacity: int) -> torch.Tensor:
        shape = (self.layers, 2, rows, self.heads, capacity, self.head_size)
        if self.device.type == "cpu" and rows:
            # numpy's zeros come from calloc: pages that no row has reached cost no memory; torch.zeros touches all.
            zeros = np.zeros(math.prod(shape) * self.dtype.itemsize, np.uint8)
            return torch.from_numpy(zeros).view(self.dtype).view(shape)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _resize(self, rows: int, capacity: int) -> None:
        old, self._tensor = self._tensor, self._allocate(rows, capacity)
        for row, length in enumerate(self.lengths):
            self._tensor[:, :, row, :, :length] = old[:, :, row, :, :length]


class AttentionMetadata:
    """Where the tokens of one forward pass belong: made once a step, read by the attention of every layer.

    Rows with one new token (decodes) come first and are attended to together; longer chunks one by one.

    Args:
        kv_cache: its lengths do not yet count the new tokens.
        inputs: the new tokens in the order in which they are laid end to end.
    """

    def __init__(self, kv_cache: KVCache, inputs: Sequence[StepInput]) -> None:
        device = kv_cache.device
        counts = [entry.count for entry in inputs]
        starts = [kv_cache.lengths[entry.row] for entry in inputs]
        self.kv_cache = kv_cache
        self.decodes = counts.count(1)
        if any(count > 1 for count in counts[: self.decodes]):
            raise ValueError("rows with a single new token come first")
        places = [range(start, start + count) for start, count in zip(starts, counts, strict=True)]
        self.positions = torch.tensor([[place for row in places for place in row]], device=device)
        self.chunks = [
            PrefillChunk(entry.row, start, entry.count, self._causal_mask(start, entry.count))
            for entry, start in list(zip(inputs, starts, strict=True))[self.decodes :]
        ]
        if not self.decodes:
            return
        rows = [entry.row for entry in inputs[: self.decodes]]
        self.rows = torch.tensor(rows, device=device)
        self.places = self.positions[0, : self.decodes]
        # A run of neighbouring rows is a view of the cache; anything else has to be gathered.
        self.run = slice(rows[0], rows[0] + len(rows)) if rows == [*range(rows[0], rows[0] + len(rows))] else None
        self.longest = max(starts[: self.decodes]) + 1
        self.mask: torch.Tensor | None = None
        if min(starts[: self.decodes]) + 1 != self.longest:
            unseen = torch.arange(self.longest, device=device) > self.places[:, None]
            self.mask = torch.zeros(unseen.shape, dtype=kv_cache.dtype, device=device)
            self.mask = self.mask.masked_fill_(unseen, -torch.inf)[:, None, None]

    def _causal_mask(self, start: int, count: int) -> torch.Tensor | None:
        if start == 0:
            return None
        mask = torch.full((count, start + count), -torch.inf, device=self.kv_cache.device)
        return mask.triu_(start + 1).to(self.kv_cache.dtype)


def cached_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    attention_metadata: AttentionMetadata,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Store new keys and values in their rows and attend to each row's own past (transformers' attention interface).

    Args:
        module: the attention layer.
        query: (1, heads, tokens, head size).
        key: (1, key-value heads, tokens, head size).
        value: as key.
        attention_mask: None; `attention_metadata` knows.

    Returns:
        (1, tokens, heads, head size), and no weights.
    """
    metadata = attention_metadata
    keys, values = metadata.kv_cache.layer(cast(int, module.layer_idx))
    heads, size = query.shape[1], query.shape[3]
    groups = heads // key.shape[1]
    attend = torch.nn.functional.scaled_dot_product_attention
    parts = []
    count = metadata.decodes
    if count:
        keys[metadata.rows, :, metadata.places] = key[0, :, :count].transpose(0, 1)
        values[metadata.rows, :, metadata.places] = value[0, :, :count].transpose(0, 1)
        rows = metadata.rows if metadata.run is None else metadata.run
        # Query heads that share a key-value head stand where a sequence would: no copies of keys for each of them.
        grouped = query[0, :, :count].transpose(0, 1).reshape(count, heads // groups, groups, size)
        past_keys, past_values = keys[rows, :, : metadata.longest], values[rows, :, : metadata.longest]
        out = attend(grouped, past_keys, past_values, attn_mask=metadata.mask, scale=scaling)
        parts.append(out.reshape(1, count, heads, size))
    for chunk in metadata.chunks:
        new = slice(count, count + chunk.count)
        end = chunk.start + chunk.count
        keys[chunk.row, :, chunk.start : end] = key[0, :, new]
        values[chunk.row, :, chunk.start : end] = value[0, :, new]
        past_keys, past_values = keys[chunk.row, None, :, :end], values[chunk.row, None, :, :end]
        if groups > 1:
            past_keys = past_keys.repeat_interleave(groups, dim=1)
            past_values = past_values.repeat_interleave(groups, dim=1)
        causal = chunk.mask is None
        out = attend(query[:, :, new], past_keys, past_values, attn_mask=chunk.mask, is_causal=causal, scale=scaling)
        parts.append(out.transpose(1, 2))
        count = new.stop
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)), None


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


AttentionInterface.register(ATTENTION, cached_attention)
