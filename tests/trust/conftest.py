"""One checkpoint with adapters and read-outs for all tests of this folder."""

import pytest

from tests.serving.engine.conversations import save_lively_checkpoint
from tests.serving.looking.learnt import learnt_library
from tests.trust.clients import World, write_adapters


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("world")
    checkpoint = save_lively_checkpoint(directory / "checkpoint")
    plain = World(checkpoint, write_adapters(directory), None, directory)  # type: ignore[arg-type]
    with plain.engine() as engine:
        library = learnt_library(engine, 150, steps=10)
    return World(checkpoint, plain.adapters, library, directory)
