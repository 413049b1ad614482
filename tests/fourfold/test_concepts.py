"""`fourfold concepts`, and things shown in a conversation."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.cli.chat_output import Answering, Looks, plain
from fourfold.cli.chat_session import Session
from fourfold.cli.concepts import read_box
from fourfold.cli.main import main
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine, Sampling
from fourfold.serving.engine.requests import Request
from fourfold.serving.looking import Looking
from tests.serving.looking.scripted import CAT, DOG, ScriptedLibrary, finding

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.effect_noise((80, 60), 90).convert("RGB").save(path)
    return path


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fourfold", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    with Engine.load(tiny_checkpoint, dtype="float32", max_num_seqs=1) as engine:
        yield engine


@pytest.fixture
def library() -> ScriptedLibrary:
    return ScriptedLibrary({"dog": finding("dog", (DOG, 0.8), (CAT, 0.4))})


def test_a_life_of_a_concept(command: Run, photo: Path, tmp_path: Path) -> None:
    assert "nothing was shown yet" in command("concepts", "list")[1]
    assert not (tmp_path / "data").exists()
    assert command("concepts", "show", "the Rex", photo, "--box", "10,20,60,90")[1] == "Rex: 1 picture, 1 box\n"
    shown = command("concepts", "show", "rex", photo, "--box", "{<1><2><3><4>}", "--not")
    assert shown == (0, "Rex: 1 picture, 1 box; not it: 1 picture\n", "")
    assert command("concepts", "rename", "REX", "Our Bracket")[1].startswith("Our Bracket: 1 picture")
    file = tmp_path / "out" / "concepts.jsonl"
    assert command("concepts", "export", file)[1] == f"2 examples are in {file}\n"
    assert command("concepts", "forget", "our bracket")[1] == "forgot our bracket (2 examples)\n"
    assert command("concepts", "import", file)[1] == "2 examples were new, 0 were here already\n"
    assert command("concepts", "list")[1].startswith("Our Bracket: ")
    other = tmp_path / "other"
    assert command("concepts", "import", file, "--store", other)[0] == 0
    assert [concept.name for concept in ConceptStore(other).list()] == ["Our Bracket"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "Rex", "PHOTO"), "without any box"),
        (("show", "Rex", "PHOTO", "--box", "1,2,3"), "is no box"),
        (("show", "Rex", "PHOTO", "--box", "50,20,50,90"), "is no box"),
        (("show", "Rex", "PHOTO", "--box", "10,20,60,900"), "is no box"),
        (("show", "x" * 10_000, "PHOTO", "--box", "10,20,60,90"), "characters"),
        (("show", "Rex", "/nowhere.png", "--box", "10,20,60,90"), "does not exist"),
        (("forget", "Rex"), "no concept is called 'Rex'"),
        (("rename", "Rex", "Max"), "no concept is called 'Rex'"),
        (("import", "/nowhere.jsonl"), "cannot be read"),
        (("export", "/proc/nowhere/concepts.jsonl"), "cannot be written"),
    ],
)
def test_bad_input_is_one_line(command: Run, photo: Path, words: tuple[str, ...], message: str) -> None:
    code, out, err = command("concepts", *(photo if word == "PHOTO" else word for word in words))
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_boxes_are_read_as_answers_show_them() -> None:
    for text in ("10,20,60,90", "10 20 60 90", "{<10><20><60><90>}", "[10,20 60,90]", "10.0, 20, 60, 90"):
        assert read_box(text) == Box(0.1, 0.2, 0.6, 0.9)
    for text in ("", "a,b,c,d", "-1,2,3,4", "1,2,3,4,5", "60,20,10,90", "box 1 2 3 4"):
        with pytest.raises(UserError, match="is no box"):
            read_box(text)


def test_things_are_shown_in_a_conversation(
    engine: Engine, library: ScriptedLibrary, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shown:
        store = ConceptStore(tmp_path / "refine")

        def library(self) -> ScriptedLibrary:
            found = [finding(concept.name, (CAT, 0.7), source="shown once") for concept in self.store.list()]
            return library.with_concepts(found)

    looking = Looking(engine, library, Shown())  # type: ignore[arg-type]
    session = Session(Answering(engine, looking), Sampling(max_tokens=60), [], None, None, Looks(False, False))

    def say(line: str) -> str:
        session._handle(line)
        return capsys.readouterr().out

    with pytest.raises(UserError, match="/image FILE"):
        say("/show Rex 10 20 60 90")
    say(f"/image {photo}")
    for bad in ("/show Rex", "/show 1 2 3 4", "/show Rex 90 20 10 60", "/not "):
        with pytest.raises(UserError):
            say(bad)
    assert say("/show our Rex 10 20 60 90") == "our Rex: 1 picture, 1 box\n"
    assert "our Rex [60,10 90,50]" in say("where is our Rex?")
    assert say("/not our rex") == "our Rex: 1 picture, 1 box; not it: 1 picture\n"
    assert say("/concepts") == "our Rex: 1 picture, 1 box; not it: 1 picture\n"
    assert say("/forget our rex") == "forgot our rex (2 examples)\n"
    assert say("/concepts") == "nothing was shown yet\n"
    with pytest.raises(UserError, match="no concept"):
        say("/forget our rex")


def test_nothing_can_be_shown_to_a_model_without_read_outs(engine: Engine, photo: Path) -> None:
    session = Session(Answering(engine), Sampling(), [], None, None, Looks(False, False))
    with pytest.raises(UserError, match="has no read-outs"):
        session._handle("/show Rex 10 20 60 90")


def test_the_terminal_has_eyes(
    command: Run,
    photo: Path,
    tiny_checkpoint: Path,
    library: ScriptedLibrary,
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
) -> None:
    monkeypatch.setattr(Looking, "load", lambda engine, *_: Looking(engine, library))  # type: ignore[arg-type]
    asked = ("chat", photo, "where are the dogs?", "--model", tiny_checkpoint, "--max-tokens", 90)
    told = json.loads(command(*asked, "--json")[1])
    assert told["claims"] == [
        {"phrase": "dogs", "box": list(box.as_tuple()), "confidence": sure, "source": "read-out"}
        for box, sure in ((DOG, 0.8), (CAT, 0.4))
    ]
    assert [found["phrase"] for found in told["boxes"]] == ["dogs", "dogs"]
    assert command(*asked)[1] == plain(parse(told["text"])) + "\n"
    remembered = Request([{"role": "user", "content": "where are the dogs?"}], forced_answer="{<10><20><30><40>}")
    assert Answering(engine, Looking(engine, library)).answer(remembered, show=False).claims == ()  # type: ignore[arg-type]
    alone = json.loads(command(*asked, "--json", "--no-eyes")[1])
    assert "claims" not in alone and alone["text"] != told["text"]
    checked = json.loads(command(*asked, "--json", "--check")[1])
    [claim] = checked["claims"]
    assert claim["phrase"] == "dogs" and claim["evidence"][0] == "seen by read-out: 90% likely there"
