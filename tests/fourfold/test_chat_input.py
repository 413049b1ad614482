from pathlib import Path

import pytest
from PIL import Image

from fourfold.cli.chat_input import read_words, user_message, with_task
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dog.jpg", "no suffix", "what is this?"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="png")


@pytest.mark.parametrize(
    ("words", "images", "question"),
    [
        (["dog.jpg"], ["dog.jpg"], None),
        (["dog.jpg", "is there a dog?"], ["dog.jpg"], "is there a dog?"),
        (["is there a dog?", "dog.jpg"], ["dog.jpg"], "is there a dog?"),
        (["dog.jpg", "dog.jpg", " both? "], ["dog.jpg", "dog.jpg"], "both?"),
        (["no suffix", "dog"], ["no suffix"], "dog"),
        (["hello"], [], "hello"),
        (["a dog or a cat / both"], [], "a dog or a cat / both"),
        (["yes/no"], [], "yes/no"),
        (["what is this?"], ["what is this?"], None),  # there is such a file
        (["x" * 5000], [], "x" * 5000),  # longer than any file name
        ([], [], None),
    ],
)
def test_files_are_images_and_the_other_word_is_the_question(
    words: list[str], images: list[str], question: str | None
) -> None:
    asked = read_words(words)
    assert [image.name for image in asked.images] == images
    assert asked.question == question


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cat.jpg"], "no such file: cat.jpg"),
        (["cat.JPEG", "what is it?"], "no such file: cat.JPEG"),
        (["./cat", "what is it?"], "no such file: ./cat"),
        (["dog.jpg", ""], "the question is empty"),
        (["-", "what?"], "nothing is"),
        (["absent.pdf#2", "what?"], "no such file: absent.pdf#2"),
        (["dog.jpg", "  \n"], "the question is empty"),
        (["dog.jpg", "is", "it", "brown"], "put the question into quotes"),
        (["https://example.org/dog.jpg", "hm?"], "save the image"),
        (["data:image/png;base64,AAAA", "hm?"], "save the image"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_words(words)
    assert "\n" not in str(caught.value)


def test_the_home_directory_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    [image] = read_words(["~/dog.jpg"]).images
    assert image.content == (tmp_path / "dog.jpg").read_bytes()


def test_a_task_wraps_the_question_and_leaves_a_tagged_one_alone() -> None:
    assert with_task(None, "is it?") == "is it?"
    assert with_task(Task.VQA, "is it?") == "[vqa] is it?"
    assert with_task(Task.REFER, "the dog") == "[refer] give me the location of the dog"
    assert with_task(Task.VQA, "[caption] say it") == "[caption] say it"


def test_images_come_before_the_question() -> None:
    image = Image.new("RGB", (4, 4))
    message = user_message([image, image], "what?")
    assert [part["type"] for part in message["content"]] == ["image", "image", "text"]
