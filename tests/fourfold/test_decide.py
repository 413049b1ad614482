"""`fourfold decide` from the command line to its table, on a tiny random checkpoint."""

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.checkpoints.calibration import Calibration
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.cli import decide as command
from fourfold.cli.decide import questions_of, read_options
from fourfold.cli.main import main
from fourfold.serving.decisions.decide import Decider
from fourfold.serving.engine.engine import Engine, Request
from tests.tiny import save_tiny_checkpoint

ASKED = ("--question", "is there a dog?", "--choice", "indoor,outdoor", "--score", "how many cars? 0,1,2")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tiny_checkpoint(tmp_path_factory.mktemp("decide") / "tiny")
    fitted = Calibration(model_fingerprint(directory), {"predicate": 0.5, "choice": 2.0, "score": 3.0})
    fitted.write(directory)
    return directory


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "more/b.JPG", "c.webp")):
        Image.effect_noise((60 + number, 50), 90).convert("RGB").save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def run(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, stdout, stderr."""

    def run(*words: object, model: Path = checkpoint) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fourfold", "decide", *map(str, words), "--model", str(model)])
        with pytest.raises(SystemExit) as caught:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_becomes_a_table(run: Run, photos: Path, checkpoint: Path) -> None:
    code, out, err = run(photos, *ASKED, "--csv")
    rows = table(out)
    assert code == 0 and not err
    assert [Path(row["file"]).name for row in rows] == ["a.png", "c.webp", "b.JPG"]
    questions = questions_of([ASKED[1]], [read_options(ASKED[3], "choice"), read_options(ASKED[5], "score")])
    with Engine.load(checkpoint) as engine:
        for row in rows:
            with Image.open(row["file"]) as image:
                seen = [{"role": "user", "content": [{"type": "image", "image": image.convert("RGB")}]}]
            calibration = Calibration("", {"predicate": 0.5, "choice": 2.0, "score": 3.0})
            dog, place, cars = Decider(engine, Request(seen), calibration).decide(questions)
            assert float(row["is there a dog?"]) == pytest.approx(dog.probabilities[0], abs=2e-3)
            assert float(row["indoor,outdoor: outdoor"]) == pytest.approx(place.probabilities[1], abs=2e-3)
            assert row["indoor,outdoor"] == ("indoor", "outdoor")[place.likeliest]
            assert float(row["how many cars?"]) == pytest.approx(cars.score, abs=4e-3)
            assert row["probabilities"] == "calibrated" and row["error"] == ""
            assert row["model"] == f"tiny@{model_fingerprint(checkpoint)[:8]}"


def test_a_bad_photo_costs_its_row(run: Run, photos: Path) -> None:
    (photos / "b0.png").write_bytes(b"\x89PNG nothing")
    code, out, err = run(photos, *ASKED, "--csv")
    rows = {Path(row["file"]).name: row for row in table(out)}
    assert code == 0 and "1 of 4 pictures could not be asked about" in err
    assert "b0.png" in rows["b0.png"]["error"] and rows["b0.png"]["is there a dog?"] == ""
    assert all(row["is there a dog?"] for name, row in rows.items() if name != "b0.png")
    code, _, err = run(photos / "b0.png", *ASKED)
    assert code == 2 and "no picture that could be asked about" in err


def test_people_get_a_short_table(run: Run, photos: Path) -> None:
    code, out, _ = run(photos / "a.png", "--question", "is there a dog?")
    assert code == 0 and "is there a dog?" in out and "model" not in out


def test_a_stopped_run_goes_on(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.csv"
    asked: list[tuple[int, int]] = []
    ask = command._ask

    def stopping(engine: Engine, looking: object, image: Image.Image, questions: list) -> list:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(image.size)
        return ask(engine, looking, image, questions)

    monkeypatch.setattr(command, "_ask", stopping)
    assert run(photos, *ASKED, "--out", out)[0] == 130
    part = tmp_path / "table.csv.part"
    assert len(table(part.read_text())) == 2 and not out.exists()
    part.write_text(part.read_text() + '"a row that was cut o')  # as a kill would leave it
    del asked[1:]
    code, shown, _ = run(photos, *ASKED, "--out", out)
    assert code == 0 and not shown and len(asked) == 2 and not part.exists()
    assert len(table(out.read_text())) == 3
    # One more picture is all that is asked about the next time; other questions do not go into this table.
    Image.effect_noise((90, 90), 90).convert("RGB").save(photos / "d.png")
    asked.clear()
    assert run(photos, *ASKED, "--out", out)[0] == 0
    assert asked == [(90, 90)] and len(table(out.read_text())) == 4
    code, _, err = run(photos, "--question", "is there a cat?", "--out", out)
    assert code == 2 and "holds another table" in err
    assert len(table(out.read_text())) == 4


def test_raw_probabilities_are_called_so(run: Run, photos: Path, tiny_checkpoint: Path) -> None:
    code, out, err = run(photos / "a.png", *ASKED, "--csv", model=tiny_checkpoint)
    assert code == 0 and "probabilities are raw" in err and "fourfold train calibrate" in err
    assert table(out)[0]["probabilities"] == "raw"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "name pictures"),
        (["{photos}"], "ask something"),
        (["{photos}/none.png", *ASKED], "no such file"),
        (["{photos}/empty", *ASKED], "there are no images in"),
        (["{photos}", "--choice", "indoor"], "at least two answers"),
        (["{photos}", "--choice", "what is it? a,b,a"], "the same answer twice"),
        (["{photos}", "--question", "  "], "is empty"),
        (["{photos}", "--question", "a dog?", "--question", "a dog?"], "asked twice"),
        (["{photos}", *ASKED, "--out", "{photos}/nowhere/table.csv"], "no directory"),
        (["{photos}", "--choice", "is it? yes,yes "], "the same answer twice"),
        (["{photos}", *ASKED, "--strength", "0.5"], "--adapter current"),
    ],
)
def test_mistakes_are_told(run: Run, photos: Path, words: list[str], complaint: str) -> None:
    (photos / "empty").mkdir()
    code, out, err = run(*(word.replace("{photos}", str(photos)) for word in words))
    assert code == 2 and complaint in err and "Traceback" not in err and not out


def test_a_question_that_cannot_be_asked_ends_the_run(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    code, _, err = run(photos, "--question", "dog " * 3000, "--out", out)
    assert code == 2 and "cannot be asked" in err and not out.exists()


def test_what_options_mean() -> None:
    assert read_options("indoor,outdoor", "choice") == ("choice", "is this indoor or outdoor?", ["indoor", "outdoor"])
    assert read_options("a, b ,c,", "score") == ("score", "is this a, b or c?", ["a", "b", "c"])
    assert read_options("what colour? red, dark blue", "choice")[1:] == ("what colour?", ["red", "dark blue"])
    (named,) = questions_of([], [read_options("indoor,outdoor", "choice")])
    assert named.name == "indoor,outdoor"
