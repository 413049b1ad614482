"""The programs of docs/checkpoints.md, as they stand there."""

import re
from pathlib import Path

import pytest
from conftest import REFERENCE

PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS, ids=["transformers", "pipeline", "peft"])
def test_it_runs(program: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(program.replace("minigpt-v2", str(tiny)).replace("photo.jpg", str(REFERENCE / "0.png")), {})
    assert capsys.readouterr().out.strip()
