"""A server whose health and metrics are asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import Live, live_server


@pytest.fixture(scope="package")
def live(tiny_checkpoint: Path) -> Iterator[Live]:
    with Engine.load(tiny_checkpoint, dtype="float32", name="tiny") as engine, live_server(engine) as server:
        yield server
