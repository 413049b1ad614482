"""What an asker's words mean: which are images, which is the question, and how it is put to the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, instruction, with_tag

if TYPE_CHECKING:
    from PIL import Image

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".svg"})


@dataclass(frozen=True)
class Asked:
    """What the words of the command line mean.

    Attributes:
        images: files that exist or look like images.
        question: None where there is none.
    """

    images: tuple[Path, ...]
    question: str | None


def read_words(words: Sequence[str]) -> Asked:
    """Tell images and question apart: the question is the one word (in quotes) that neither is nor looks like a file.

    Raises:
        UserError: a file is missing, the question is empty, or there are several words that could be it.
    """
    images = [word for word in words if _is_file_name(word)]
    others = [word for word in words if not _is_file_name(word)]
    for name in images:
        if not Path(name).expanduser().exists():
            raise UserError(f"no such file: {name}")
    if len(others) > 1:
        raise UserError(
            f"{others[0]!r} is no file, and {others[-1]!r} is none either; put the question into quotes, and check the "
            "names of the images"
        )
    if others and not others[0].strip():
        raise UserError('the question is empty; ask something, for example "what is this?"')
    return Asked(tuple(Path(name).expanduser() for name in images), others[0].strip() if others else None)


def _is_file_name(word: str) -> bool:
    if word.startswith(("http://", "https://", "data:", "file:")):
        raise UserError(f"{word[:60]} is an address; save the image first and give its file name")
    if word.startswith(("/", "./", "../", "~/")) or Path(word).suffix.lower() in _IMAGE_SUFFIXES:
        return True
    try:
        return bool(word.strip()) and Path(word).exists()
    except (OSError, ValueError):  # too long for a file name, or a NUL inside
        return False


def with_task(task: Task | None, question: str) -> str:
    """The question in the words that the task's training used; one that brings its own tag is left alone."""
    if task is None or with_tag(task, question) == question:
        return question
    return instruction(task, question)


def user_message(images: Sequence["Image.Image"], question: str) -> dict[str, Any]:
    """A user's turn: images first, then the question."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}
