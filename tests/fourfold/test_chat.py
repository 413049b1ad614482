"""`fourfold chat` from the command line to what it prints, on a tiny random checkpoint."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fourfold.assistant.chat.look_again import look_again
from fourfold.assistant.grounding import draw, parse
from fourfold.cli.chat import answer_object
from fourfold.cli.chat_output import coloured, named, save_boxes, show_answer, show_looks, write_image
from fourfold.cli.main import main
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.requests import Completion, Delta


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.effect_noise((80, 60), 90).convert("RGB").save(path)
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))

    def run(*words: object, piped: bytes = b"") -> tuple[int, str, str]:
        arguments = ["fourfold", "chat", *map(str, words), "--model", str(tiny_checkpoint)]
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        with pytest.raises(SystemExit) as caught:
            main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def test_json_is_one_object_with_all_that_was_promised(run: Run, photo: Path) -> None:
    code, out, _ = run(photo, "[vqa] is there a dog?", "--json", "--max-tokens", 7)
    answer = json.loads(out)
    assert code == 0
    assert set(answer) == {"text", "boxes", "finish_reason", "usage", "timings", "model"}
    assert answer["model"] == "checkpoint"
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 7
    assert answer["timings"]["first_token"] > 0


def test_json_and_stream_say_the_same(run: Run, photo: Path) -> None:
    words = (photo, "what is it?", "--max-tokens", 20, "--temperature", 1, "--seed", 4)
    assert json.loads(run(*words, "--json")[1])["text"] + "\n" == run(*words)[1]
    assert run(*words)[1] != run(*words[:-1], 5)[1]


def test_a_task_asks_in_its_own_words(run: Run, photo: Path) -> None:
    def length(*words: object) -> int:
        return json.loads(run(photo, *words, "--json", "--max-tokens", 1)[1])["usage"]["prompt_tokens"]

    assert length("dog", "--task", "refer") == length("[refer] give me the location of dog")
    assert length("--task", "caption") == length("[caption] describe this image briefly")
    assert length("[vqa] dog", "--task", "refer") == length("[vqa] dog")


def test_without_an_image_it_is_a_conversation_in_text(run: Run) -> None:
    code, out, _ = run("how are you?", "--json", "--max-tokens", 3)
    assert code == 0
    assert json.loads(out)["boxes"] == []


def test_every_kind_of_picture_is_understood(run: Run, tmp_path: Path) -> None:
    """Two images of different size in one question, one of them 16-bit, the other a palette animation."""
    grey = tmp_path / "grey.png"
    Image.new("I;16", (30, 20), 40_000).save(grey)
    moving = tmp_path / "moving.gif"
    frames = [Image.new("P", (20, 30), colour) for colour in (1, 2)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    code, out, _ = run(grey, moving, "what are they?", "--json", "--max-tokens", 2)
    assert code == 0
    assert json.loads(out)["usage"]["prompt_tokens"] > 8


def test_a_picture_with_names_is_saved_and_that_is_said(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(photo) as image:
        save_boxes(image.convert("RGB"), named("{<10><20><30><40>}<delim>{<0><0><9><9>}", "dog"), tmp_path / "out.png")
        expected = draw(image.convert("RGB"), parse("<p>dog</p> {<10><20><30><40>}<delim>{<0><0><9><9>}").phrases)
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (80, 60)
        assert drawn.tobytes() == expected.tobytes()
    assert capsys.readouterr().err.replace("\n", "") == f"saved {tmp_path / 'out.png'} (2 boxes)"


def test_where_there_is_no_box_nothing_is_drawn_and_that_is_said(run: Run, photo: Path, tmp_path: Path) -> None:
    code, _, err = run(photo, "is it?", "--draw", tmp_path / "boxes.png", "--max-tokens", 3)
    assert code == 0
    assert "Nothing to draw: the answer has no box." in err
    assert not (tmp_path / "boxes.png").exists()


def test_a_question_comes_by_pipe(run: Run, photo: Path) -> None:
    asked = json.loads(run(photo, "what is it?", "--json", "--max-tokens", 9)[1])["text"]
    for words in ((photo,), (photo, "-"), ("-", photo)):
        code, out, err = run(*words, "--json", "--max-tokens", 9, piped="\ufeffwhat is it?\n".encode())
        assert (code, json.loads(out)["text"], err) == (0, asked, "")


def test_a_picture_comes_by_pipe(run: Run, photo: Path) -> None:
    asked = run(photo, "what is it?", "--max-tokens", 9)
    assert asked[0] == 0
    for words in (("-", "what is it?"), ("what is it?", "-")):
        assert run(*words, "--max-tokens", 9, piped=photo.read_bytes()) == asked
    assert run("-", "--task", "caption", "--max-tokens", 9, piped=photo.read_bytes())[0] == 0


@pytest.mark.parametrize(
    ("words", "piped", "message"),
    [
        (["-", "what?"], b"", "what is piped in is empty"),
        (["-", "what?"], b"a picture of a dog", "what is piped in is not an image"),
        (["-"], b"", "ask a question"),
        (["-"], b"\x89PNG\r\n\x1a\n\xff", "what is piped in is"),
        ([], b"\xff\xfe\xfd\xfc", "what is piped in is not an image"),
        (["-", "-", "what?"], b"x", "name it once"),
        (["https://example.org/a.jpg", "what?"], b"", "nothing is fetched"),
    ],
)
def test_what_is_piped_in_and_cannot_be_meant_is_refused(
    run: Run, words: list[str], piped: bytes, message: str
) -> None:
    code, out, err = run(*words, piped=piped)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_picture_by_pipe_alone_needs_a_question(run: Run, photo: Path) -> None:
    code, _, err = run(piped=photo.read_bytes())
    assert code == 2 and "ask a question" in err


def test_the_device_can_be_chosen(run: Run, photo: Path) -> None:
    words = (photo, "what is it?", "--max-tokens", 3, "--json")
    chosen, default = (json.loads(run(*words, *device)[1]) for device in (("--device", "cpu"), ()))
    assert chosen["text"] == default["text"]
    if not torch.cuda.is_available():
        code, _, err = run(*words, "--device", "cuda")
        assert code == 2
        assert "no CUDA device here" in err


def test_a_question_longer_than_the_context_names_both_numbers(run: Run, photo: Path) -> None:
    code, out, err = run(photo, "seven " * 1500)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "1024" in err


def test_looking_again_adds_claims_and_repeats(run: Run, photo: Path) -> None:
    words = (photo, "[vqa] is there a dog?", "--json", "--max-tokens", 5, "--check", "--look-closer")
    answers = [json.loads(run(*words)[1]) for _ in range(2)]
    for answer in answers:
        assert answer.pop("timings")["look_again"] >= 0
        assert answer["first_text"] == json.loads(run(*words[:-2])[1])["text"]
        for claim in answer["claims"]:
            assert set(claim) == {"phrase", "verdict", "box", "evidence"}
            assert claim["verdict"] in ("supported", "unsupported", "unsure")
    assert answers[0] == answers[1]


def test_looked_again_answers_are_shown_with_their_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    image = Image.new("RGB", (40, 30))
    told = {"[vqa] is there a dog?": "yes", "[detection] dog": "<p>dog</p> {<10><20><30><40>}"}

    def ask(messages: list[dict], images: list[Image.Image]) -> str:
        return told.get(messages[0]["content"][-1]["text"], "no")

    show_looks(look_again(ask, image, "[caption] describe", "a dog [runs]", check_claims=True))
    said = capsys.readouterr().out
    assert re.search(r"^a dog: (supported|unsupported|unsure)$", said, re.MULTILINE)
    assert re.search(
        r"^  where is it: dog \[10,20 30,40\]$", said, re.MULTILINE
    )  # by what it was checked, without tags
    show_looks(look_again(ask, image, "[vqa] what colour is it?", "red", check_claims=True))
    assert "nothing to check" in capsys.readouterr().out


def completion(text: str) -> Completion:
    return Completion(text, [1, 2], "stop", 30, 0, 2, None, {"total": 0.123456})


def test_boxes_are_fractions_and_pixels_of_the_image() -> None:
    text = "<p>a dog</p> {<10><20><30><40>}<delim>{<0><0><100><100>} and {<50><50><60><70>}"
    answer = answer_object(text, completion(text), Image.new("RGB", (200, 100)), "m")
    assert answer["boxes"] == [
        {"phrase": "a dog", "box": [0.1, 0.2, 0.3, 0.4], "pixels": [20, 20, 60, 40]},
        {"phrase": "a dog", "box": [0.0, 0.0, 1.0, 1.0], "pixels": [0, 0, 200, 100]},
        {"phrase": None, "box": [0.5, 0.5, 0.6, 0.7], "pixels": [100, 50, 120, 70]},
    ]
    assert answer["text"] == text
    assert answer["timings"] == {"total": 0.1235}
    assert answer_object(text, completion(text), None, "m")["boxes"][0]["pixels"] is None


def test_on_a_terminal_phrases_have_colours_and_short_boxes() -> None:
    shown = coloured(parse("see <p>a dog</p> {<10><20><30><40>} here"))
    assert shown.plain == "see a dog [10,20 30,40] here"
    assert {str(span.style) for span in shown.spans} == {"bold yellow", "dim yellow"}
    assert coloured(parse("[bold]no markup[/bold] <p>unfinished")).plain == "[bold]no markup[/bold] unfinished"
    assert coloured(parse("{<10><20><30><40>}"), "dog").plain == "dog [10,20 30,40]"
    assert coloured(parse("a\x1b[2J\nb")).plain == "a[2J\nb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see <p>a dog</p> {<10><20><30><40>} and <p>two cats</p> {<1><2><3><4>}<delim>{<5><6><7><8>}.", None),
        ("{<10><20><30><40>}<delim>{<0><0><9><9>}", "dog [10,20 30,40] [0,0 9,9]"),
        ("Yes, there is a dog.", "Yes, there is a dog."),
        ("<p>a dog runs", "a dog runs"),
        ("2 &amp; 3 < 4 {not a box}", "2 & 3 < 4 {not a box}"),
        ("3", "3"),
    ],
)
def test_a_pipe_gets_the_same_words_piece_by_piece(text: str, shown: str | None, capsys: pytest.CaptureFixture) -> None:
    shown = shown or "see a dog [10,20 30,40] and two cats [1,2 3,4] [5,6 7,8]."
    for size in (1, 3, 1000):
        pieces = [text[place : place + size] for place in range(0, len(text), size)]
        deltas = [Delta(piece) for piece in pieces] + [Delta("", completion=completion(text))]
        assert show_answer(iter(deltas), "dog").text == text
        assert capsys.readouterr().out == shown + "\n"


def test_of_broken_markup_no_word_is_lost(capsys: pytest.CaptureFixture) -> None:
    text = "<p>\ndog.<.{<10><20><30><40>}</p>"
    show_answer(iter([*map(Delta, text), Delta("", completion=completion(text))]))
    assert capsys.readouterr().out.endswith("\ndog.<. [10,20 30,40]\n")


def test_a_picture_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_image(image, tmp_path / "file" / "out.png")
    (tmp_path / "out.png").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_image(image, tmp_path / "out.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out.png"]


# The command as people start it


def command(*words: object, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fourfold.cli", "chat", *map(str, words)],
        cwd=directory,
        env={**os.environ, "FOURFOLD_OFFLINE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def bad_files(directory: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(directory / "good.jpg")
    data = (directory / "good.jpg").read_bytes()
    (directory / "cut.jpg").write_bytes(data[: len(data) // 2])
    (directory / "empty.jpg").write_bytes(b"")
    (directory / "text.jpg").write_text("I am no image")
    (directory / "folder.jpg").mkdir()
    # 20,000 x 20,000 pixels of one colour: 400 million pixels in a few kilobytes.
    Image.new("1", (20_000, 20_000)).save(directory / "bomb.png")


BAD_INPUT: list[tuple[list[Any], str]] = [
    (["absent.jpg", "what is it?"], "no such file: absent.jpg"),
    (["folder.jpg", "what is it?"], "folder.jpg is a directory"),
    (["empty.jpg", "what is it?"], "empty.jpg is empty"),
    (["text.jpg", "what is it?"], "text.jpg is not an image"),
    (["cut.jpg", "what is it?"], "cut.jpg is damaged or cut short"),
    (["bomb.png", "what is it?"], "far more pixels than allowed"),
    (["good.jpg", ""], "the question is empty"),
    (["good.jpg"], "a conversation needs a terminal"),
    (["good.jpg", "--json"], "ask a question"),
    (["good.jpg", "hm?", "--task", "sing"], "no task is called 'sing'"),
    (["good.jpg", "--task", "refer", "--json"], "ask a question"),
    (["good.jpg", "hm?", "--max-tokens", 0], "max_tokens is 0"),
    (["good.jpg", "hm?", "--temperature", -1], "temperature is -1"),
    (["good.jpg", "hm?", "--temperature", 9], "temperature is 9.0; it goes from 0 (greedy) to 2"),
    (["good.jpg", "hm?", "--draw", "./good.jpg"], "would overwrite the picture"),
    (["good.jpg", "hm?", "--draw", "absent/out.png"], "there is no directory absent"),
    (["good.jpg", "hm?", "--draw", "out.txt"], "has to end in"),
    (["hm?", "--draw", "out.png"], "--draw needs an image"),
    (["hm?", "--check"], "need an image to look at"),
]


@pytest.mark.parametrize(("words", "message"), BAD_INPUT)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[Any], message: str
) -> None:
    bad_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("fourfold: ")
    assert err.count("\n") == 1
    assert message in err


def test_options_that_are_none_are_refused_without_a_traceback(tmp_path: Path) -> None:
    bad_files(tmp_path)
    for option in ("--quantization", "--device"):
        done = command("good.jpg", "hm?", option, "3bit", directory=tmp_path)
        assert done.returncode == 2
        assert "3bit" in done.stderr
        assert "Traceback" not in done.stderr
    done = command("good.jpg", "hm?", "--model", "nowhere", directory=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no model is called 'nowhere'" in done.stderr


def test_bad_input_is_found_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; import fourfold.cli.main as cli; sys.argv = ['fourfold', 'chat', 'absent.jpg', 'hm?']\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 False False\n"


def test_two_runs_say_the_same(tiny_checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        words = (photo, "[vqa] is there a dog?", "--json", "--max-tokens", 20, "--model", tiny_checkpoint)
        done = command(*words, directory=tmp_path, FOURFOLD_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        answers.append(json.loads(done.stdout))
    for answer in answers:
        del answer["timings"]
    assert answers[0] == answers[1]
