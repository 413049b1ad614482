"""The command `fourfold quantize`, as typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fourfold.cli.main import app
from fourfold.prompts.errors import UserError
from tests.assistant.pictures import scene


def test_makes_a_checkpoint_and_says_what_it_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("llmcompressor", reason="llm-compressor is not here (make test installs it)")
    scene().save(tmp_path / "photo.png")
    words = ["quantize", str(tiny_checkpoint), str(tmp_path / "out"), "--images", str(tmp_path / "photo.png")]
    said = CliRunner().invoke(app, [*words, "--chats", "8", "--json"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    assert told["directory"] == str(tmp_path / "out") and told["method"] == "gptq" and told["layers"] == 14
    assert told["bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size < told["bytes_before"]
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, UserError) and "exists already" in str(again.exception)
