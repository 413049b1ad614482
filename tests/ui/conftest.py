"""What the tests of the page's script share."""

from pathlib import Path

import pytest

from fourfold.ui.state.settings import Settings, configure
from tests.ui.scripted import Scripted


@pytest.fixture
def settings(endpoint: Scripted, tmp_path: Path) -> Settings:
    found = Settings(endpoint.url, history=tmp_path / "history.sqlite", corrections=tmp_path / "refine")
    configure(found)
    return found
