import torch
from PIL import Image

from fourfold.serving.engine.cache import FeatureCache, PrefixCache, image_digest


def features() -> torch.Tensor:
    return torch.zeros(10)  # 40 bytes


def stored(tokens: int) -> torch.Tensor:
    return torch.zeros(1, 2, 1, tokens, 1)  # 8 bytes a token


def test_the_digest_is_of_what_the_image_shows() -> None:
    image = Image.effect_noise((6, 4), 50).convert("RGB")
    assert image_digest(image) == image_digest(image.copy())
    changed = image.copy()
    changed.putpixel((5, 3), (1, 2, 3))
    assert image_digest(image) != image_digest(changed)
    # The same bytes in another shape are another picture.
    assert image_digest(image) != image_digest(Image.frombytes("RGB", (4, 6), image.tobytes()))


def test_features_are_bounded_in_bytes_and_the_least_recently_used_goes() -> None:
    cache = FeatureCache(100)
    cache.put(b"a", features())
    cache.put(b"b", features())
    assert cache.get(b"a") is not None
    cache.put(b"c", features())
    assert (b"a" in cache, b"b" in cache, b"c" in cache) == (True, False, True)
    assert cache.nbytes == 80
    cache.put(b"huge", torch.zeros(1000))
    assert b"huge" not in cache
    assert cache.nbytes == 80


def test_the_longest_common_beginning_is_found_and_images_and_adapters_are_told_apart() -> None:
    cache = PrefixCache(10_000)
    cache.put(0, [1, b"cat", b"cat", 5], stored(4))
    cache.put(0, [1, b"dog", b"dog", 5, 6], stored(5))
    entry, length = cache.longest(0, [1, b"dog", b"dog", 7])
    assert entry is not None
    assert entry.keys[1] == b"dog"
    assert length == 3
    assert cache.longest(0, [1, b"bird", b"bird", 5])[1] == 1
    assert cache.longest(1, [1, b"dog", b"dog", 5]) == (None, 0)


def test_a_longer_conversation_takes_the_place_of_its_beginning() -> None:
    cache = PrefixCache(10_000)
    cache.put(0, [1, 2], stored(2))
    cache.put(0, [1, 2, 3], stored(3))
    assert cache.nbytes == stored(3).nbytes
    assert cache.covers(0, [1, 2])
    assert not cache.covers(0, [1, 2, 3, 4])


def test_conversations_are_bounded_in_bytes() -> None:
    cache = PrefixCache(64)  # eight tokens
    for first in range(4):
        cache.put(0, [first, 7, 7, 7], stored(4))
    assert cache.nbytes <= 64
    assert not cache.covers(0, [0])
    assert cache.covers(0, [3, 7, 7, 7])
    cache.put(0, list(range(100, 120)), stored(20))
    assert not cache.covers(0, [100])


def test_an_adapters_conversations_can_be_forgotten() -> None:
    cache = PrefixCache(10_000)
    cache.put(1, [1, 2], stored(2))
    cache.put(2, [1, 2], stored(2))
    cache.forget(1)
    assert not cache.covers(1, [1])
    assert cache.covers(2, [1, 2])
    assert cache.nbytes == stored(2).nbytes
