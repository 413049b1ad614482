"""What the tests of the page's script share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.ui.state.settings import Settings, configure
from tests.ui.scripted import Scripted


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    server = Scripted().start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(endpoint: Scripted, tmp_path: Path) -> Settings:
    found = Settings(endpoint.url, history=tmp_path / "history.sqlite", corrections=tmp_path / "refine")
    configure(found)
    return found
