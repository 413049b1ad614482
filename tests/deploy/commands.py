"""What containers are told, read as `fourfold` reads it."""

import re
from pathlib import Path
from typing import Any

import typer

from fourfold.cli.main import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "fourfold"
# Read by Python, pip, the C library, vLLM and its Triton, and NVIDIA's container toolkit.
OF_OTHERS = {
    "HOME",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_VISIBLE_DEVICES",
    "PATH",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "PIP_NO_CACHE_DIR",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME",
}


def serving_options(words: list[str]) -> dict[str, Any]:
    """The options that `fourfold serve` makes of the words behind `fourfold`, without running it."""
    assert words[0] == "serve"
    verb = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return verb.make_context("serve", list(words[1:])).params


def variables_read() -> set[str]:
    """Environment variables of ours that the program's source names."""
    found: set[str] = set()
    for room in ("assistant", "eval", "prompts", "serving", "ui", "fourfold/cli"):
        for path in (ROOT / room).rglob("*.py"):
            found.update(re.findall(r'"(FOURFOLD_[A-Z_]+)"', path.read_text(encoding="utf-8")))
    return found
