"""A correction made in a conversation at the terminal counts at once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.cli.chat_output import Answering, Looks
from fourfold.cli.chat_session import Session
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine, Sampling

Say = Callable[[str], str]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    with Engine.load(tiny_checkpoint, dtype="float32", max_num_seqs=1) as engine:
        yield engine


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.effect_noise((80, 60), 90).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def say(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Says a line in one conversation; what is printed, remarks on stderr included."""
    sampling = Sampling(max_tokens=40)
    session = Session(Answering(engine), sampling, [], None, None, Looks(False, False), store=tmp_path / "store")

    def say(line: str) -> str:
        session._handle(line)
        return " ".join("".join(capsys.readouterr()).split())

    return say


def test_pictures_are_numbered(say: Say, photo: Path) -> None:
    assert say(f"/image {photo}") == "picture 1: 80 x 60 pixels; now ask"
    assert say(f"/image {photo}") == "picture 2: 80 x 60 pixels; now ask"
    say("what is it?")
    assert say(f"/image {photo}").startswith("picture 3")
    say("/reset")
    assert say(f"/image {photo}").startswith("picture 2")


def test_the_right_answer_is_remembered_and_no_adapter_may_be_trained(say: Say, photo: Path, tmp_path: Path) -> None:
    say(f"/image {photo}")
    say("what colour is the bus?")
    told = say("/correct The bus is red.")
    assert "the same question about this picture is answered so from now on" in told
    assert "no adapter is trained with it" in told
    [kept] = CorrectionStore(tmp_path / "store").list()
    assert (kept.chosen, kept.remember, kept.consent, kept.question) == (
        "The bus is red.",
        True,
        False,
        "what colour is the bus?",
    )
    say(f"/image {photo}")
    again = say("what colour is the bus?")
    assert again.startswith("The bus is red.") and "remembered from your correction" in again


def test_an_adapter_may_be_trained_where_that_is_said(say: Say, photo: Path, tmp_path: Path) -> None:
    say(f"/image {photo}")
    say("what is it?")
    assert "an adapter may be trained with it" in say("/correct --train a bus")
    [kept] = CorrectionStore(tmp_path / "store").list()
    assert (kept.chosen, kept.consent) == ("a bus", True)


def test_a_right_box_is_remembered_and_shown_once(say: Say, photo: Path, tmp_path: Path) -> None:
    say(f"/image {photo}")
    say("where is the dog?")
    assert "dog [10,20 60,90]" in say("/correct 10 20 60 90")
    say(f"/image {photo}")
    assert "[10,20 60,90]" in say("where is the dog?")
    assert [concept.name for concept in ConceptStore(tmp_path / "store").list()] == ["dog"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["/correct red"], "there is no answer about a picture yet"),
        (["hello", "/correct red"], "there is no answer about a picture yet"),
        (["/image {photo}", "what is it?", "/correct"], "say what is right"),
        (["/image {photo}", "what is it?", "/correct --train"], "say what is right"),
        (["/image {photo}", "where is it?", "/correct 60 20 10 90"], "is no box"),
    ],
)
def test_what_cannot_be_a_correction_is_said_and_nothing_kept(
    say: Say, photo: Path, tmp_path: Path, lines: list[str], message: str
) -> None:
    *before, last = (line.format(photo=photo) for line in lines)
    for line in before:
        say(line)
    with pytest.raises(UserError, match=message):
        say(last)
    assert not (tmp_path / "store").exists()
