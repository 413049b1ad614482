"""What an asker's words mean: which are images, which is the question, and how it is put to the model."""

import contextlib
import os
import select
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fourfold.assistant.images import LIMITS, PDF, SUFFIXES, Attachment, split_page
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, instruction, with_tag

if TYPE_CHECKING:
    from PIL import Image

PIPED = "-"
"""The word for the standard input: a picture, or the question."""
_PICTURES = SUFFIXES | {PDF, ".svg"}
"""Endings of what people mean as pictures; what cannot be read of them is said when they are opened."""


@dataclass(frozen=True)
class Asked:
    """What the words of the command line mean.

    Attributes:
        images: whose files are there, not decoded yet.
        question: None where there is none.
    """

    images: tuple[Attachment, ...]
    question: str | None


def read_words(words: Sequence[str], piped: TextIO | None = None, *, needs_question: bool = True) -> Asked:
    """Tell images and question apart: the question is the one word (in quotes) that neither is nor looks like a file.

    What is piped in is read where a word is `-`, or where there is no question: it is a picture if it looks like one,
    else the question.

    Args:
        words: of the command line.
        piped: the standard input; None where nobody pipes anything in.
        needs_question: whether a question is missed where there is none.

    Raises:
        UserError: a file is missing, the question is empty, or there are several words that could be it.
    """
    names = [word for word in words if word == PIPED or _is_file_name(word)]
    others = [word for word in words if word != PIPED and not _is_file_name(word)]
    if len(others) > 1:
        raise UserError(
            f"{others[0]!r} is no file, and {others[-1]!r} is none either; put the question into quotes, and check the "
            "names of the images"
        )
    if others and not others[0].strip():
        raise UserError('the question is empty; ask something, for example "what is this?"')
    question = others[0].strip() if others else None
    if names.count(PIPED) > 1:
        raise UserError("- is what is piped in, of which there is one; name it once")
    if PIPED in names and piped is None:
        raise UserError('- is what is piped in, and nothing is: cat photo.jpg | fourfold chat - "what is this?"')
    for name in names:
        if name != PIPED and not _file(name).exists():
            raise UserError(f"no such file: {name}")
    content: Attachment | str | None = None
    if piped is not None and (PIPED in names or (question is None and needs_question)):
        content = _read(piped, asked=question is not None)
    if isinstance(content, str):
        question = content
    elif content is not None and PIPED not in names:
        names.append(PIPED)
    images = []
    for name in names:
        if name != PIPED:
            images.append(Attachment.from_path(Path(name).expanduser(), name))
        elif isinstance(content, Attachment):
            images.append(content)
    return Asked(tuple(images), question)


def _read(piped: TextIO, *, asked: bool) -> Attachment | str | None:
    """The picture or the question that is piped in; None where nothing is.

    Raises:
        UserError: it is neither, or no picture although the question is there already.
    """
    content = piped.buffer.read(LIMITS.bytes + 1)
    if not content.strip() and not asked:
        return None
    image = Attachment(content, "what is piped in")
    with contextlib.suppress(UnicodeDecodeError):
        if not asked and (text := content.decode("utf-8-sig").strip()):
            return text
    _ = image.media_type  # raises where it is no image
    return image


def unread_pipe(piped: TextIO | None) -> bool:
    """Whether somebody pipes in something that no word asks for. Nothing is read, and nobody waited for."""
    if piped is None or not hasattr(piped, "fileno"):
        return False
    try:
        return stat.S_ISFIFO(os.fstat(piped.fileno()).st_mode) and bool(select.select([piped], [], [], 0)[0])
    except (OSError, ValueError):
        return False


def _is_file_name(word: str) -> bool:
    if word.startswith(("http://", "https://", "data:", "file:")):
        raise UserError(f"{word[:60]} is an address, and nothing is fetched; save the image and give its file name")
    if word.startswith(("/", "./", "../", "~/")) or Path(split_page(word)[0]).suffix.lower() in _PICTURES:
        return True
    try:
        return bool(word.strip()) and Path(word).exists()
    except (OSError, ValueError):  # too long for a file name, or a NUL inside
        return False


def _file(name: str) -> Path:
    return Path(split_page(Path(name).expanduser())[0])


def with_task(task: Task | None, question: str) -> str:
    """The question in the words that the task's training used; one that brings its own tag is left alone."""
    if task is None or with_tag(task, question) == question:
        return question
    return instruction(task, question)


def user_message(images: Sequence["Image.Image"], question: str) -> dict[str, Any]:
    """A user's turn: images first, then the question."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}
