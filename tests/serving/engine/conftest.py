"""One lively checkpoint, with plain transformers and our engine on it, for all tests of the engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.serving.engine.engine import Engine
from tests.serving.engine.conversations import Reference, load, save_lively_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively_checkpoint(tmp_path_factory.mktemp("lively") / "checkpoint")


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Iterator[Engine]:
    """Shared: its caches hold what other tests asked."""
    with load(checkpoint) as loaded:
        yield loaded


@pytest.fixture
def fresh(checkpoint: Path) -> Iterator[Engine]:
    """A new one for every test: nothing is cached, every counter is 0."""
    with load(checkpoint) as loaded:
        yield loaded
