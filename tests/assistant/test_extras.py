"""What the extras want, and the sentence where one is not installed."""

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from fourfold.assistant.extras import Unmet, explain, extras, require, requirements, unmet_requirements
from fourfold.prompts.errors import UserError

ROOT = Path(__file__).parents[2]


def names(extra: str = "") -> set[str]:
    return {requirement.name for requirement in requirements(extra)}


def test_extras_are_those_of_the_project_file() -> None:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    assert extras() == re.findall(r"^(\w+) = \[", section.partition("\n[")[0], re.MULTILINE)


def test_an_extra_brings_what_it_includes_and_nothing_of_the_core() -> None:
    assert {"streamlit", "fastapi", "llguidance"} - names("ui") == {"llguidance"}  # which is the core's
    assert names("serve") < names("ui") < names("all") < names("test")
    assert "vllm" not in names("all"), "it would bring CUDA onto a machine without a GPU"
    assert {"torch", "transformers", "pillow"} <= names()
    assert not any(names() & names(extra) for extra in extras())


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "fastapi":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "streamlit" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {unmet.requirement.partition(">")[0]: unmet for unmet in unmet_requirements("ui")}
    assert found["fastapi"].installed is None
    assert found["streamlit"] == Unmet("streamlit>=1.62", "0.1")
    assert set(found) == {"fastapi", "streamlit"}


def test_a_part_that_is_not_there_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    require("tools", "this")
    monkeypatch.setitem(sys.modules, "cv2", None)  # which makes its import fail
    with pytest.raises(UserError) as refused:
        require("tools", "an agent")
    assert str(refused.value) == f'an agent needs the extra "tools": {sys.executable} -m pip install "fourfold[tools]"'


@pytest.mark.parametrize(
    ("module", "extra"),
    [("fastapi.responses", "serve"), ("streamlit", "ui"), ("yaml", "train"), ("cv2", "tools"), ("pyarrow.csv", "eval")],
)
def test_an_import_that_failed_names_the_extra(module: str, extra: str) -> None:
    said = explain(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert f'pip install "fourfold[{extra}]"' in str(said)


def test_an_import_of_our_own_that_failed_is_no_missing_extra() -> None:
    for module in ("fourfold.nothing", "torch", "opencv", None):
        assert explain(ModuleNotFoundError("No module", name=module)) is None
