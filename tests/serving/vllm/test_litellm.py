"""LiteLLM as docs/serving.md shows it, against the local engine's server. (`test_server.py` asks vLLM's with it.)"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.vllm.conftest import USER_KEY, litellm_answer

pytestmark = pytest.mark.vllm


def test_snippet(checkpoint: Path) -> None:
    command = ["serve", "--model", str(checkpoint), "--port", "0", "--api-key", USER_KEY]
    process = subprocess.Popen(
        [sys.executable, "-m", "fourfold.cli", *command],
        env={**os.environ, "FOURFOLD_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert litellm_answer(url, "tiny")
    finally:
        process.kill()
        process.communicate()
