"""The script for a GPU runs where there is none, on the tiny layout: model and engine are both measured."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu


def test_tiny_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    options = ["--layout", "tiny", "--modes", "fp32", "--batches", "2", "--new-tokens", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu", "--json", str(out), *options])
    gpu.main()
    found = json.loads(out.read_text())["modes"]["fp32"]
    assert "skipped" not in found and "skipped" not in found["runs"][0] and "skipped" not in found["engine"][0]
    assert found["runs"][0]["decode_tokens_per_s"] > 0 and found["engine"][0]["requests_per_s"] > 0
