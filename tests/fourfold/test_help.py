"""What `--help` shows on a terminal of 80 columns."""

import enum
import re
import shlex
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from fourfold.cli.main import app

Path = tuple[str, ...]


def commands(command: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))
WITH_EXAMPLES = [
    *((name,) for name in ("chat", "serve", "refine", "concepts", "decide", "mcp", "tools", "readouts", "eval")),
    ("eval", "run"),
]


def shown(path: Path) -> str:
    return CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output


def choices(param: Any) -> list[str]:
    kinds = [param.type_descriptor.annotation, *get_args(param.type_descriptor.annotation)]
    return [one.value for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum) for one in kind]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_nothing_is_cut_at_80_columns(path: Path) -> None:
    text = shown(path)
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    words = re.split(r"[\s|,;<>{}.]+", text)
    for param in ALL[path].params:
        options = [word for word in (*param.opts, *param.secondary_opts) if word.startswith("-")]
        for word in options + choices(param):
            assert word in words


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=" ".join)
def test_examples_are_shown_and_understood(path: Path) -> None:
    text = shown(path)
    examples = [line.strip() for line in text[text.index("Examples:") :].splitlines() if "fourfold " in line]
    assert len(examples) >= 2
    for line in examples:
        words = shlex.split(re.sub(r"\s{2,}\(.*|.*\| ?(?=fourfold)", "", line))
        words = words[1 : words.index("--") if "--" in words else None]
        said = CliRunner().invoke(app, [*words, "--help"])
        assert said.exit_code == 0, said.output


def test_chat_fits_on_a_page() -> None:
    assert len(shown(("chat",)).splitlines()) <= 60
