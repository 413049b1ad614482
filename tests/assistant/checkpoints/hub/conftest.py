"""A Hub on loopback and an empty cache of it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import _commit_api, constants

from tests.assistant.checkpoints.hub.fake_hub import FakeHub, serve


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()
    with serve(fake) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        # huggingface_hub has read the environment when it was imported.
        monkeypatch.setattr(constants, "ENDPOINT", fake.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(_commit_api, "is_xet_available", lambda: False)  # a store of its own, in a binary protocol
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("FOURFOLD_OFFLINE", raising=False)
        yield fake
        server.shutdown()


@pytest.fixture
def files(tiny_checkpoint: Path) -> dict[str, bytes]:
    """Those of a checkpoint."""
    return {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
