"""What `fourfold serve` refuses before anything slow, and what it prints."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fourfold.assistant.images import Attachment
from fourfold.cli.serve import first_question, serve
from fourfold.prompts.errors import UserError
from fourfold.serving.api.keys import collect_keys
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import live_server

KEY = "0123456789abcdef"
app = typer.Typer()
app.command()(serve)


@pytest.mark.parametrize("options", [["--device", "cpu"], ["--memory"], ["--max-running", "2"]], ids=" ".join)
def test_options_of_the_local_engine_are_refused_for_vllm(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["--engine", "vllm", *options])
    assert isinstance(result.exception, UserError)
    assert options[0] in str(result.exception)


def test_a_device_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(app, ["--device", "abacus"])
    assert result.exit_code == 2
    assert "abacus" in result.output


@pytest.mark.skipif(shutil.which("curl") is None, reason="the line that is printed needs curl")
def test_the_line_that_is_printed_works_when_it_is_pasted(tiny_checkpoint: Path) -> None:
    with (
        Engine.load(tiny_checkpoint, name="tiny") as engine,
        live_server(engine, keys=collect_keys([KEY], None, {})) as live,
    ):
        line = first_question(f"{live.url}/v1", "tiny", needs_key=True)
        asked = subprocess.run(
            ["sh", "-c", line], env={**os.environ, "KEY": KEY}, capture_output=True, text=True, timeout=60
        )
        answer = json.loads(asked.stdout)
        assert answer["object"] == "chat.completion", answer
        without = live.chat("What is this?", headers={"Authorization": f"Bearer {KEY}"}).json()
        assert answer["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]


def test_the_printed_line_survives_odd_names() -> None:
    line = first_question("http://127.0.0.1:1/v1", 'it\'s 100%s $HOME "odd"+eyes', needs_key=False)
    printed = subprocess.run(["sh", "-c", line.partition(" | curl")[0]], capture_output=True, text=True)
    body = json.loads(printed.stdout.replace("\n", ""))
    assert body["model"] == 'it\'s 100%s $HOME "odd"+eyes'
    [_, picture] = body["messages"][0]["content"]
    assert Attachment.from_data_uri(picture["image_url"]["url"]).decode().width > 100
