"""Libraries that would report what they are used for are told not to."""

import os
import subprocess
import sys
from pathlib import Path


def test_onnxruntime_makes_itself_no_identity_and_looks_nobody_up(tmp_path: Path) -> None:
    """Its wheels for Linux leave a session's number in the folder for temporary files as soon as they are imported."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import fourfold.serving.engine.engine, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    command = [sys.executable, "-c", code]
    environment |= {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
