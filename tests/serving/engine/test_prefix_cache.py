"""The tree of what was read: found again by every prompt that begins alike, kept once, and bounded."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fourfold.serving.engine.cache import PromptKey, shared_length
from fourfold.serving.engine.prefix_cache import PrefixCache, joined

TOKEN = 16  # bytes of a token's keys and values here


def number(key: PromptKey) -> float:
    return float(key) if isinstance(key, int) else float(sum(key))


def reading(keys: list[PromptKey]) -> Callable[[int], np.ndarray]:
    """Reads a prompt; a token's keys and values depend on all that stands before it, as a model's do."""
    sums = np.cumsum([(place + 1) * number(key) for place, key in enumerate(keys)])
    values = np.stack([sums, -sums])[None, :, None, :, None]  # (1, 2, 1, tokens, 1), float64
    return lambda start: values[:, :, :, start:].copy()


def put(cache: PrefixCache, keys: list[PromptKey], lora_id: int = 0) -> None:
    cache.put(lora_id, keys, reading(keys))


def length(cache: PrefixCache, keys: list[PromptKey], lora_id: int = 0) -> int:
    """What is known of a prompt, after checking that it is the prompt's own."""
    found = cache.longest(lora_id, keys)
    assert found.length == sum(part.shape[3] for part in found.parts)
    if found.parts:
        assert np.array_equal(joined(found.parts), reading(keys)(0)[:, :, :, : found.length])
    return found.length


def test_the_longest_common_beginning_is_found_and_images_and_adapters_are_told_apart() -> None:
    cache = PrefixCache(10_000)
    put(cache, [1, b"cat", b"cat", 5])
    put(cache, [1, b"dog", b"dog", 5, 6])
    assert length(cache, [1, b"dog", b"dog", 7]) == 3
    assert length(cache, [1, b"dog", b"dog", 5, 6, 8]) == 5
    assert length(cache, [1, b"bird", b"bird", 5]) == 1
    assert length(cache, [2]) == length(cache, []) == 0
    assert length(cache, [1, b"dog", b"dog", 5], lora_id=1) == 0


def test_questions_about_one_picture_keep_it_once() -> None:
    cache = PrefixCache(100_000)
    picture: list[PromptKey] = [1, *[b"cat"] * 64]
    for question in range(8):
        put(cache, [*picture, 1000 + question, 5, 6])
    assert cache.nbytes == (65 + 8 * 3) * TOKEN
    for question in range(8):
        assert length(cache, [*picture, 1000 + question, 5, 6, 7]) == 68


def test_what_is_known_is_not_read_again() -> None:
    cache, starts = PrefixCache(10_000), []

    def put_noting(keys: list[PromptKey]) -> None:
        def read(start: int) -> np.ndarray:
            starts.append(start)
            return reading(keys)(start)

        cache.put(0, keys, read)

    for keys in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2], [1, 2, 9], [1, 2, 9]):
        put_noting([*keys])
    assert starts == [0, 4, 2]
    assert cache.nbytes == 6 * TOKEN
    assert length(cache, [1, 2, 9]) == length(cache, [1, 2, 9, 9]) == 3


def test_the_least_recently_used_ends_go_first_and_what_they_share_last() -> None:
    cache = PrefixCache(8 * TOKEN)
    put(cache, [1, 2, 3, 4])
    put(cache, [1, 2, 5, 6])  # six tokens
    put(cache, [9, 9])
    assert length(cache, [1, 2, 3, 4]) == 4  # used again: the other end goes
    put(cache, [8])
    assert [length(cache, keys) for keys in ([1, 2, 3, 4], [1, 2, 5, 6], [9, 9], [8])] == [4, 2, 2, 1]
    assert cache.nbytes == 7 * TOKEN


def test_what_alone_is_more_than_the_limit_is_not_kept_and_drives_nobody_out() -> None:
    cache = PrefixCache(8 * TOKEN)
    put(cache, [1, 2, 3])
    put(cache, [*range(100, 120)])
    put(cache, [1, 2, 3, *range(200, 206)])
    assert cache.nbytes == 3 * TOKEN and length(cache, [1, 2, 3]) == 3


def test_an_adapters_prompts_can_be_forgotten() -> None:
    cache = PrefixCache(10_000)
    for lora_id in (1, 2):
        put(cache, [1, 2], lora_id)
        put(cache, [1, 3], lora_id)
        cache.put_exact(lora_id, [1, 2], reading([1, 2])(0))
    cache.forget(1)
    assert length(cache, [1, 2], 1) == 0 and cache.exact(1, [1, 2]) is None
    assert length(cache, [1, 2], 2) == 2 and cache.exact(2, [1, 2]) is not None
    assert cache.nbytes == 5 * TOKEN


def test_one_reading_is_kept_as_it_was_and_others_may_go_on_from_it() -> None:
    cache = PrefixCache(10_000)
    put(cache, [1, 2, 3])
    assert cache.exact(0, [1, 2]) is None
    stored = reading([1, 2])(0)
    cache.put_exact(0, [1, 2], stored)
    assert cache.exact(0, [1, 2]) is stored and cache.exact(0, [1]) is None
    cache.put_exact(0, [7, 8, 9], reading([7, 8, 9])(0))
    assert length(cache, [7, 8, 5]) == 2


def test_keys_and_values_of_torch() -> None:
    cache = PrefixCache(10_000)
    for keys in ([1, 2, 3], [1, 2, 4]):
        cache.put(0, keys, lambda start, keys=keys: torch.from_numpy(reading([*keys])(start)))
    found = cache.longest(0, [1, 2, 4, 5])
    assert torch.equal(joined(found.parts), torch.from_numpy(reading([1, 2, 4])(0)))


@pytest.mark.parametrize("limit", [40, 10_000])
def test_like_a_list_of_prompts(limit: int) -> None:
    """Against what it replaces: all prompts in full, compared one by one."""
    draw = random.Random(0)
    cache, prompts = PrefixCache(limit * TOKEN), []
    for _ in range(300):
        keys: list[PromptKey] = [draw.randrange(3) for _ in range(draw.randint(1, 12))]
        known = max((shared_length(keys, other) for other in prompts), default=0)
        assert length(cache, keys) <= known if limit == 40 else length(cache, keys) == known
        put(cache, keys)
        prompts.append(keys)
        assert cache.nbytes <= limit * TOKEN
        assert length(cache, keys) == len(keys)
    if limit == 10_000:
        beginnings = {tuple(keys[:end]) for keys in prompts for end in range(1, len(keys) + 1)}
        assert cache.nbytes == len(beginnings) * TOKEN
