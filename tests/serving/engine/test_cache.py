import numpy as np
from PIL import Image

from fourfold.serving.engine.cache import FeatureCache, image_digest


def features() -> np.ndarray:
    return np.zeros(10, np.float32)  # 40 bytes


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
    cache.put(b"huge", np.zeros(1000, np.float32))
    assert b"huge" not in cache
    assert cache.nbytes == 80
