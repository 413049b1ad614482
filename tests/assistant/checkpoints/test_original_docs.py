"""docs/original-checkpoint.md: its commands exist, and its figures are those that a conversion promises."""

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import typer

from fourfold.assistant.checkpoints.original.stages import AFTER_STAGE_2, AFTER_STAGE_3
from fourfold.cli.main import app
from fourfold.eval.prompting import resolve_config

PAGE = (Path(__file__).parents[3] / "docs" / "original-checkpoint.md").read_text(encoding="utf-8")
REPRODUCE = PAGE.partition("## Reproduce the paper")[2].partition("\n## ")[0]


def parsed(words: list[str]) -> click.Context:
    """What the command line makes of its words, without doing it."""
    command, name = typer.main.get_command(app), ""
    while hasattr(command, "commands"):  # a group of verbs
        name, *words = words
        command = command.commands[name]
    return command.make_context(name, words)


def reproducing() -> list[list[str]]:
    """Arguments of every `fourfold` that the script of the page calls; nothing is run but the shell around them."""
    (script,) = re.findall(r"^```bash\n(.*?)^```", REPRODUCE, re.DOTALL | re.MULTILINE)
    tell = 'fourfold() { printf "%s\\n" "${*@Q}"; }\n'  # in one write, as some run beside each other
    told = subprocess.run(["bash", "-euc", f"{tell}{script}wait"], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    return [shlex.split(line) for line in told.stdout.splitlines()]


def test_commands_to_reproduce_the_paper() -> None:
    served, *runs = sorted(reproducing(), key=lambda words: words[0], reverse=True)
    assert served[0] == "serve" and parsed(served).params["port"] == 8000
    asked = [parsed(words).params for words in runs]
    assert {options["benchmark"] for options in asked} == set(AFTER_STAGE_2)
    for options in asked:
        assert options["images"] and options["annotations"]
        manner = resolve_config(options["recipe"], options["benchmark"])
        assert (manner.max_tokens, manner.wording) == (20, "minigpt4")
        assert manner.template == {"double_bos": options["benchmark"] != "iconvqa"}
    assert len({options["out"] for options in asked}) == len(asked)


def test_commands_to_convert_and_run() -> None:
    lines = re.findall(r"^\$ fourfold (.*)$", PAGE, re.MULTILINE) + re.findall(r"`fourfold (serve [^`]*)`", PAGE)
    assert len(lines) >= 3
    for line in lines:
        parsed(shlex.split(line))


@pytest.mark.parametrize(("row", "expected"), [("(stage 2)", AFTER_STAGE_2), ("chat (stage 3)", AFTER_STAGE_3)])
def test_figures_are_those_of_the_first_version(row: str, expected: dict[str, float]) -> None:
    header, _, *rows = (line for line in REPRODUCE.splitlines() if line.startswith("|"))
    (cells,) = (line.split("|")[2:-1] for line in rows if f"{row} |" in line and ("chat" in line) == ("chat" in row))
    names = [name.strip().lower().removesuffix(" val") for name in header.split("|")[2:-1]]
    printed = {name: float(cell) for name, cell in zip(names, cells, strict=True) if cell.strip()}
    assert printed == dict(expected)
    assert "first version" in REPRODUCE and "2310.09478" in REPRODUCE
