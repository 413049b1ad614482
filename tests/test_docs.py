"""What the pages name is there: files, modules, and commands that the command line understands."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fourfold.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = "py|md|sh|yaml|jinja|json|toml|js|css|png|jpg"
# Of other people, or of whoever follows the page.
ELSEWHERE = ("lmms_eval/", "out/", "runs/", "mine/")


def commands(text: str) -> list[str]:
    """Lines of the page's blocks that start `fourfold`, joined where they go on."""
    blocks = "\n".join(re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    lines = blocks.replace("\\\n", " ").splitlines()
    found = (re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:python -m )?(fourfold(?: .*)?)$", line.strip()) for line in lines)
    return [match[1] for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(rf"`([\w.-]+(?:/[\w.-]+)+\.(?:{KINDS}))`", text)
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    missing = [name for name in named if not name.startswith(ELSEWHERE) and not (ROOT / name).exists()]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    missing = []
    for name in re.findall(r"(?<![\w./-])(fourfold(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        place, parts = ROOT, name.split(".")
        while parts and (place / parts[0]).is_dir():
            place /= parts.pop(0)
        if parts and not (place / f"{parts[0]}.py").is_file() and len(parts) > 1:
            missing.append(name)
        elif len(parts) == 1 and not (place / f"{parts[0]}.py").is_file():
            init = (place / "__init__.py").read_text(encoding="utf-8")
            if not re.search(rf"\b{parts[0]}\b", init):  # else a name that the package has
                missing.append(name)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_understood(page: Path) -> None:
    for line in commands(page.read_text(encoding="utf-8")):
        assert understood(line) is None, line


def understood(line: str) -> str | None:
    """None, or what is wrong with the verbs and options of a command; values are not looked at, nothing is run."""
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((place for place, word in enumerate(words) if word in ("|", ">", "&", "&&", "--")), None)]
    said = CliRunner().invoke(app, [*words, "--help"])
    return None if said.exit_code == 0 else said.output


def test_commands_are_found_in_pages_and_read() -> None:
    text = (
        "```console\n$ fourfold chat a.jpg \\\n    --json   # twice\n$ make chat\n```\n```bash\nA=1 fourfold ui\n```\n"
    )
    found = commands(text)
    assert [" ".join(shlex.split(line, comments=True)) for line in found] == [
        "fourfold chat a.jpg --json",
        "fourfold ui",
    ]
    assert [understood(line) for line in found] == [None, None]
    assert "--no-such-option" in (understood("fourfold chat a.jpg --no-such-option") or "")
    assert "no-such-verb" in (understood("fourfold refine no-such-verb") or "")
