import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.torch_backend.attention import AttentionMetadata, cached_attention

CONFIG = LlamaConfig(num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)


class Layer(torch.nn.Module):
    layer_idx = 0


def kv_cache(budget: int = 10**7, context: int = 600) -> KVCache:
    return KVCache(CONFIG, budget, context)


def tokens(row: int, count: int) -> StepInput:
    return StepInput(row, np.empty((count, CONFIG.hidden_size), np.float32))


def naive_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int) -> torch.Tensor:
    """One row by loops: query (heads, tokens, size), keys and values (heads, start + tokens, size)."""
    out = torch.empty(query.shape[1], query.shape[0], query.shape[2])
    for head in range(query.shape[0]):
        for token in range(query.shape[1]):
            seen = start + token + 1
            scores = torch.tensor([float(query[head, token] @ keys[head, place]) * 0.3 for place in range(seen)])
            weights = torch.softmax(scores, 0)
            out[token, head] = sum(weights[place] * values[head, place] for place in range(seen))
    return out


def test_each_row_attends_to_its_own_past_only() -> None:
    """Rows of different lengths, single tokens and chunks with and without a past, in one pass."""
    torch.manual_seed(0)
    cache = kv_cache()
    lengths = [5, 2, 0, 3]
    new = [1, 1, 4, 3]
    past = []
    for row, length in enumerate(lengths):
        assert cache.admit(50)
        kept = torch.randn(1, 2, 2, length, 8)
        cache.write(row, kept, length)
        past.append(kept)
    total = sum(new)
    query, key, value = torch.randn(1, 4, total, 8), torch.randn(1, 2, total, 8), torch.randn(1, 2, total, 8)
    metadata = AttentionMetadata(cache, [tokens(row, new[row]) for row in range(4)])
    assert metadata.positions.tolist() == [[5, 2, 0, 1, 2, 3, 3, 4, 5]]
    out, _ = cached_attention(Layer(), query, key, value, None, scaling=0.3, attention_metadata=metadata)
    begin = 0
    for row in range(4):
        mine = slice(begin, begin + new[row])
        keys = torch.cat([past[row][0, 0], key[0, :, mine]], dim=1).repeat_interleave(2, dim=0)
        values = torch.cat([past[row][0, 1], value[0, :, mine]], dim=1).repeat_interleave(2, dim=0)
        expected = naive_attention(query[0, :, mine], keys, values, lengths[row])
        assert torch.allclose(out[0, mine], expected, atol=1e-5)
        begin = mine.stop


def test_rows_that_are_not_neighbours_are_gathered() -> None:
    torch.manual_seed(1)
    cache = kv_cache()
    for row in range(3):
        cache.admit(50)
        cache.write(row, torch.randn(1, 2, 2, 4, 8), 4)
    query, key, value = torch.randn(1, 4, 2, 8), torch.randn(1, 2, 2, 8), torch.randn(1, 2, 2, 8)
    both, _ = cached_attention(
        Layer(),
        query,
        key,
        value,
        None,
        scaling=1.0,
        attention_metadata=AttentionMetadata(cache, [tokens(0, 1), tokens(2, 1)]),
    )
    alone, _ = cached_attention(
        Layer(), query[:, :, 1:], key[:, :, 1:], value[:, :, 1:], None, scaling=1.0,
        attention_metadata=AttentionMetadata(cache, [tokens(2, 1)]),
    )  # fmt: skip
    assert torch.allclose(both[:, 1:], alone, atol=1e-6)


def test_the_last_row_takes_the_place_of_one_that_leaves_and_nothing_stays_behind() -> None:
    cache = kv_cache()
    kept = [np.full((1, 2, 2, length, 8), length, np.float32) for length in (3, 4, 5)]
    for row, tensor in enumerate(kept):
        cache.admit(20)
        cache.write(row, tensor, tensor.shape[3])
    cache.remove(0)
    assert cache.lengths == [5, 4]
    assert np.array_equal(cache.read(0), kept[2])
    assert np.array_equal(cache.read(1), kept[1])
    keys, values = cache.layer(0)
    assert not keys[0, :, 5:].any() and not values[0, :, 5:].any()
    assert not keys[2].any() and not values[2].any()


def test_growing_keeps_what_is_there() -> None:
    cache = kv_cache()
    cache.admit(100)
    kept = torch.randn(1, 2, 2, 90, 8).numpy()
    cache.write(0, kept, 90)
    before = cache.nbytes
    assert cache.admit(500)
    assert cache.nbytes > before
    assert np.array_equal(cache.read(0), kept)


def test_the_budget_is_kept_and_one_row_of_the_whole_context_always_fits() -> None:
    cache = kv_cache(budget=0, context=600)
    assert cache.admit(600)
    assert not cache.admit(10)
    assert cache.nbytes <= 768 * cache.token_bytes
    cache.remove(0)
    assert all(cache.admit(200) for _ in range(3))  # the room of one long row holds three short ones
    assert not cache.admit(200)


def test_single_tokens_come_first() -> None:
    cache = kv_cache()
    cache.admit(10)
    cache.admit(10)
    with pytest.raises(ValueError, match="come first"):
        AttentionMetadata(cache, [tokens(0, 3), tokens(1, 1)])


def test_a_row_is_put_together_from_pieces() -> None:
    cache = kv_cache()
    stored = np.random.default_rng(0).standard_normal((1, 2, 2, 7, 8), np.float32)
    assert cache.admit(20) and cache.admit(20)
    for begin, end in ((0, 3), (3, 4), (4, 7)):
        cache.append(1, stored[:, :, :, begin:end])
    assert cache.lengths == [0, 7]
    assert np.array_equal(cache.read(1), stored) and np.array_equal(cache.read(1, 5), stored[:, :, :, 5:])
