"""What the engine keeps fits the memory that its container may use, not the machine's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fourfold.serving.engine.engine import Engine
from tests.containers import GIB, Container
from tests.serving.engine.conversations import ask, conversations, load

MIB = 2**20


def no_limit(container: Container) -> None:
    container.write(container.groups / "memory.max", "max")
    container.write(container.groups / "memory.current", str(30 * GIB))


def version_2(container: Container) -> None:
    container.write(container.groups / "memory.max", str(2 * GIB))
    container.write(container.groups / "memory.current", str(3 * GIB // 2))
    container.write(container.groups / "memory.stat", f"inactive_file {GIB // 2}")


def version_1(container: Container) -> None:
    container.version_1("/docker/abc", root="/docker/abc")
    container.write(container.groups / "memory" / "memory.limit_in_bytes", str(2 * GIB))
    container.write(container.groups / "memory" / "memory.usage_in_bytes", str(GIB))


def nested(container: Container) -> None:
    container.member("0::/pod/container")
    container.write(container.groups / "pod" / "container" / "memory.max", "max")
    container.write(container.groups / "pod" / "memory.max", str(2 * GIB))
    container.write(container.groups / "pod" / "memory.current", str(GIB))


def used_up(container: Container) -> None:
    container.write(container.groups / "memory.max", str(GIB))
    container.write(container.groups / "memory.current", str(GIB))


def most(keeps: Callable[[int], bool]) -> int:
    """The most bytes that a cache keeps, a multiple of 256 up to a GiB."""
    low, high = 0, 2**22
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if keeps(256 * middle) else (low, middle - 1)
    return 256 * low


def budgets(engine: Engine) -> dict[str, int]:
    """Bytes at most of the KV cache, of kept conversations and of kept features of images."""
    kv_cache, features = engine.model_runner.kv_cache, engine.model_runner.feature_cache
    prefixes, asked = engine._scheduler.prefix_cache, iter(range(10**6))

    def keeps_features(nbytes: int) -> bool:
        digest = next(asked).to_bytes(8, "big")
        features.put(digest, np.zeros(nbytes, np.uint8))
        return digest in features

    def keeps_prefix(nbytes: int) -> bool:
        keys = [-1 - next(asked), 0]  # no token of a prompt
        prefixes.put(0, keys, lambda start: np.zeros((1, 1, 1, 2, nbytes // 2), np.uint8))
        return prefixes.longest(0, keys).length == len(keys)

    return {
        "kv": kv_cache.rows_of(256) * 256 * kv_cache.token_bytes,
        "prefixes": most(keeps_prefix),
        "features": most(keeps_features),
    }


@pytest.mark.parametrize(
    ("limits", "free"), [(no_limit, 48 * GIB), (version_2, GIB), (version_1, GIB), (nested, GIB), (used_up, 0)]
)
def test_caches_fit_what_is_free(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: Callable[[Container], None],
    free: int,
) -> None:
    limits(Container(tmp_path, monkeypatch))
    with load(tiny_checkpoint) as engine:
        row = engine.model_runner.kv_cache.token_bytes * engine.context_length
        found = budgets(engine)
        assert found["kv"] == pytest.approx(max(free // 2, row), rel=0.01)
        assert found["prefixes"] == min(256 * MIB, free // 8)
        assert found["features"] == min(128 * MIB, free // 16)
        assert ask(engine, conversations()[0], max_tokens=3).token_ids, "it answers even with nothing to spare"
