"""The attention of rows that share a forward pass in torch, over the KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import AttentionInterface

from fourfold.serving.engine.kv_cache import KVCache, StepInput

ATTENTION = "fourfold_kv_cache"


@dataclass(frozen=True)
class PrefillChunk:
    """Several new tokens of one row, the first at position `start` of the row.

    `mask` is additive, (count, start + count); None where nothing stands before them and the mask is simply causal.
    """

    row: int
    start: int
    count: int
    mask: torch.Tensor | None


class AttentionMetadata:
    """Where the tokens of one forward pass belong: made once a step, read by the attention of every layer.

    Rows with one new token (decodes) come first and are attended to together; longer chunks one by one.

    Args:
        kv_cache: its lengths do not yet count the new tokens.
        inputs: the new tokens in the order in which they are laid end to end.
    """

    def __init__(self, kv_cache: KVCache, inputs: Sequence[StepInput]) -> None:
        keys = torch.as_tensor(kv_cache.layer(0)[0])
        self.dtype, self.device = keys.dtype, keys.device
        counts = [entry.count for entry in inputs]
        starts = [kv_cache.lengths[entry.row] for entry in inputs]
        self.kv_cache = kv_cache
        self.decodes = counts.count(1)
        if any(count > 1 for count in counts[: self.decodes]):
            raise ValueError("rows with a single new token come first")
        places = [range(start, start + count) for start, count in zip(starts, counts, strict=True)]
        self.positions = torch.tensor([[place for row in places for place in row]], device=self.device)
        self.chunks = [
            PrefillChunk(entry.row, start, entry.count, self._causal_mask(start, entry.count))
            for entry, start in list(zip(inputs, starts, strict=True))[self.decodes :]
        ]
        if not self.decodes:
            return
        rows = [entry.row for entry in inputs[: self.decodes]]
        self.rows = torch.tensor(rows, device=self.device)
        self.places = self.positions[0, : self.decodes]
        # A run of neighbouring rows is a view of the cache; anything else has to be gathered.
        self.run = slice(rows[0], rows[0] + len(rows)) if rows == [*range(rows[0], rows[0] + len(rows))] else None
        self.longest = max(starts[: self.decodes]) + 1
        self.mask: torch.Tensor | None = None
        if min(starts[: self.decodes]) + 1 != self.longest:
            unseen = torch.arange(self.longest, device=self.device) > self.places[:, None]
            self.mask = torch.zeros(unseen.shape, dtype=self.dtype, device=self.device)
            self.mask = self.mask.masked_fill_(unseen, -torch.inf)[:, None, None]

    def _causal_mask(self, start: int, count: int) -> torch.Tensor | None:
        if start == 0:
            return None
        mask = torch.full((count, start + count), -torch.inf, device=self.device)
        return mask.triu_(start + 1).to(self.dtype)


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
    # An array of numpy is seen where it lies, without a copy.
    keys, values = map(torch.as_tensor, metadata.kv_cache.layer(cast(int, module.layer_idx)))
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


AttentionInterface.register(ATTENTION, cached_attention)
