"""The examples of how to run the server: units are read, and every command line is one that exists."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import typer

from fourfold.cli.main import app
from fourfold.serving.api.keys import collect_keys

DOCS = Path(__file__).parents[3] / "docs"
PAGES = {name: (DOCS / name).read_text(encoding="utf-8") for name in ("serving.md", "serving-vllm.md")}
BLOCKS = [
    (name, kind, body)
    for name, text in PAGES.items()
    for kind, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]
UNITS = {name: body for name, kind, body in BLOCKS if kind == "ini"}
# A prompt may name the machine, and a backslash goes on with the next line.
COMMANDS = [
    line
    for _, kind, body in BLOCKS
    if kind == "console"
    for line in re.findall(r"^(?:\w+)?\$\s+(?:\S*/)?fourfold (serve .*)$", body.replace("\\\n", " "), re.MULTILINE)
]


def parse(words: list[str]) -> click.Context:
    """What `fourfold serve` makes of a command line, without running it."""
    assert words[0] == "serve"
    verb = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return verb.make_context("serve", words[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    options = parse(shlex.split(command.partition("#")[0])).params
    assert not options["extra"] or options["engine"] == "vllm"


def test_there_are_such_examples() -> None:
    assert set(UNITS) == set(PAGES) and len(COMMANDS) >= 6
    for flag in ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size", "ray"):
        assert any(flag in command for command in COMMANDS), flag


@pytest.mark.parametrize("page", UNITS)
def test_units(page: str, tmp_path: Path) -> None:
    text = UNITS[page]
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string(re.sub(r"\\\n\s*", " ", text))
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    options = parse(words).params
    assert program.endswith("/fourfold") and options["host"] == "0.0.0.0"
    assert options["engine"] == ("vllm" if "vllm" in page else "local")
    # Where systemd puts the credential is where the server reads its keys.
    credential, _, source = service["LoadCredential"].partition(":")
    assert str(options["api_key_file"]) == "${CREDENTIALS_DIRECTORY}/" + credential and source.startswith("/")
    assert service["DynamicUser"] == "yes" and int(service["TimeoutStopSec"]) > 30  # what a graceful end may take
    if shutil.which("systemd-analyze"):
        file = tmp_path / "fourfold.service"
        file.write_text(text.replace(program, "/bin/true"))
        checked = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stderr


def test_key_file(tmp_path: Path) -> None:
    """The example of a key file is one."""
    (text,) = (body for _, kind, body in BLOCKS if kind == "text")
    file = tmp_path / "keys"
    file.write_text(text)
    names = [(key.name, key.per_minute, key.admin) for key in collect_keys([], file, {}).keys]
    assert names == [("alice", 60, False), ("ops", None, True)]
