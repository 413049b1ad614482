"""Fixtures that every package's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import save_tiny_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Tests must fit two cores, and give the same rounding on bigger machines."""
    if "OMP_NUM_THREADS" not in os.environ:  # which torch follows by itself
        torch.set_num_threads(2)


@pytest.fixture(scope="session", autouse=True)
def _no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Else httpx reads the world's authorities, 15 ms, at each of thousands of calls to a loopback port."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real annotations and images, `FOURFOLD_DATA` or `../shared/data`; the test is skipped where they are absent."""
    root = Path(os.environ.get("FOURFOLD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"the shared test data is not at {root} (set FOURFOLD_DATA)")
    return root


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tiny random checkpoint; read it, do not write into it."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")
