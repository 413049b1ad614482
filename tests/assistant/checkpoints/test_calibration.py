"""Temperatures kept beside a checkpoint: only good ones, and only those of this very model, are used."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourfold.assistant.checkpoints.calibration import CALIBRATION_FILE, Calibration, read_calibration
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.prompts.errors import UserError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_what_is_written_is_read(checkpoint: Path) -> None:
    assert read_calibration(checkpoint) is None
    fitted = {"predicate": {"questions": 40}, "photos": "training split"}
    calibration = Calibration(model_fingerprint(checkpoint), {"predicate": 1.25, "score": 3.0}, fitted)
    assert calibration.write(checkpoint) == checkpoint / CALIBRATION_FILE
    assert read_calibration(checkpoint) == calibration


def test_other_weights_have_none(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    Calibration(model_fingerprint(checkpoint), {"predicate": 1.25}).write(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"trained on")
    assert read_calibration(checkpoint) is None
    assert "fitted for another model" in caplog.text and "fourfold train calibrate" in caplog.text


@pytest.mark.parametrize(
    "told",
    [
        [],
        {"model": "x"},
        {"model": "x", "temperatures": [1]},
        {"model": "x", "temperatures": {"predicate": "warm"}},
        {"model": "x", "temperatures": {"predicate": 0}},
        {"model": "x", "temperatures": {"predicate": float("nan")}},
        {"model": "x", "temperatures": {"predicate": float("inf")}},
        {"model": "x", "temperatures": {"guess": 1.0}},
    ],
)
def test_a_damaged_file_is_named(checkpoint: Path, told: Any) -> None:
    (checkpoint / CALIBRATION_FILE).write_text(json.dumps(told))
    with pytest.raises(UserError, match="is no calibration"):
        read_calibration(checkpoint)
