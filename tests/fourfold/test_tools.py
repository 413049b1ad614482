"""`fourfold tools`, with a scripted detector."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fourfold.assistant.tools import detector
from fourfold.cli import main
from fourfold.cli.tools import app
from tests.assistant.tools.conftest import See, nothing_seen, sees

__all__ = ["nothing_seen", "sees"]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (80, 60), "grey").save(path)
    return str(path)


def run(*words: str) -> str:
    result = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_detect_prints_a_line_a_thing_and_names_what_it_does_not_know(sees: See, photo: str, tmp_path: Path) -> None:
    sees(("dog", (0.0, 0.25, 0.5, 0.75), 0.9))
    drawn = tmp_path / "drawn.png"
    assert run("detect", photo, "puppy", "unicorn", "--draw", str(drawn)).splitlines() == [
        "puppy  [0,25 50,75]  98%",
        "unicorn: the detector does not know it",
    ]
    with Image.open(drawn) as image:
        assert len(image.getcolors() or []) > 1
    assert json.loads(run("detect", photo, "--json"))["found"][0]["label"] == "dog"
    assert run("detect", photo, "cat") == "nothing that the detector knows\n"


def test_count_says_a_number_or_at_least_or_that_it_does_not_know(sees: See, photo: str) -> None:
    sees(("dog", (0.0, 0.25, 0.5, 0.75), 0.9))
    assert run("count", photo, "dogs") == "1\n"
    assert run("count", photo, "unicorn") == "the counter does not know 'unicorn'\n"
    sees(("dog", (0.0, 0.25, 0.1, 0.35), 0.9))
    assert run("count", photo, "dogs") == "at least 1\n"


def test_zoom_saves_the_part(photo: str, tmp_path: Path) -> None:
    out = tmp_path / "part.png"
    assert "40 x 30 pixels" in run("zoom", photo, "--box", "0,25,50,75", "--out", str(out))
    with Image.open(out) as image:
        assert image.size == (40, 30)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["detect", "missing.jpg"], "missing.jpg does not exist"),
        (["zoom", "PHOTO", "--box", "0,0,1", "--out", "x.png"], "is no box"),
        (["zoom", "PHOTO", "--box", "0,0,100,200", "--out", "x.png"], "is no box"),
        (["zoom", "PHOTO", "--box", "0,0,100,100", "--out", "x.tiff"], "has to end in"),
        (["zoom", "PHOTO", "--box", "0,0,100,100", "--out", "no/x.png"], "there is no directory no"),
        (["zoom", "PHOTO", "--box", "0,0,100,100", "--out", "PHOTO"], "would overwrite the picture"),
        (["segment", "PHOTO", "--box", "0,0,0,100", "--out", "x.png"], "is no box"),
        (["detect", "PHOTO", "dog"], "FOURFOLD_OFFLINE"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str],
    says: str,
    photo: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    detector._network.cache_clear()
    monkeypatch.setattr(sys, "argv", ["fourfold", "tools", *(photo if word == "PHOTO" else word for word in words)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("x.*"))
