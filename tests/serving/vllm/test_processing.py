"""vLLM's own test of multimodal processing passes on our class."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.vllm.conftest import ENVIRONMENT

pytestmark = pytest.mark.vllm


def test_vllms_processing_test_passes(checkpoint: Path, tmp_path: Path) -> None:
    """In a process of its own, because vLLM's tests are a package called `tests`, as ours."""
    sources = Path(sys.prefix) / "share" / "vllm"
    assert (sources / "tests").is_dir(), "vLLM's tests are missing; make the environment by serving/vllm/env/make.sh"
    shutil.copy(Path(__file__).with_name("processing_cases.py"), tmp_path / "test_cases.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_cases.py"],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(sources), "FOURFOLD_CHECKPOINT": str(checkpoint)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "3 passed" in run.stdout
    assert "skipped" not in run.stdout
