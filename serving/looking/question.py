"""What a conversation asks at its end, and about which of its pictures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PICTURE = r"(?:picture|image|photo|photograph|pic)"
_NAMED = re.compile(
    rf"\b(?:in|on|of|about|at|from|for)?\s*(?:the\s+)?(?:{_PICTURE}\s+(?:number\s+|no\.?\s*|#\s*)?(\d{{1,3}}|one|two|three|four|five)"
    rf"|({'|'.join(_ORDINALS)}|last)\s+{_PICTURE})\b",
    re.IGNORECASE,
)
_NUMBERS = ("zero", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Asked:
    """The question that an answer is wanted to.

    Attributes:
        words: its text, without the number of a picture.
        pictures: how many there are in the conversation.
        image: that it is about: the one that it names by its number, counted from 1 through the conversation, or the
            last one; None where there is none, or several came last and none is named.
        is_last: whether that is what the model would look at anyway.
        messages: the conversation with this picture alone and these words; the same where `is_last`.
    """

    words: str
    pictures: int
    image: Image.Image | None
    is_last: bool
    messages: list[dict[str, Any]]


def read_question(messages: Sequence[dict[str, Any]]) -> Asked:
    """Read the end of a conversation in `Request.messages`' form; one that ends with no question has no words."""
    images = [part["image"] for message in messages for part in _parts(message) if part.get("type") == "image"]
    if not messages or messages[-1].get("role") != "user":
        return Asked("", len(images), None, True, list(messages))
    words = "\n".join(part["text"] for part in _parts(messages[-1]) if part.get("type") == "text")
    number, bare = _picture_named(words, len(images))
    if number is not None:
        content = [{"type": "image", "image": images[number]}, {"type": "text", "text": bare}]
        return Asked(bare, len(images), images[number], False, [{"role": "user", "content": content}])
    for message in reversed(messages):
        shown = [part["image"] for part in _parts(message) if part.get("type") == "image"]
        if shown:
            return Asked(words, len(images), shown[0] if len(shown) == 1 else None, True, list(messages))
    return Asked(words, 0, None, True, list(messages))


def _parts(message: dict[str, Any]) -> Sequence[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else [{"type": "text", "text": content or ""}]


def _picture_named(words: str, pictures: int) -> tuple[int | None, str]:
    """Index of the one picture that a question names, and the question without it; None where it names none or more."""
    found = list(_NAMED.finditer(words))
    if pictures < 2 or len(found) != 1:
        return None, words
    number, ordinal = found[0].group(1), found[0].group(2)
    if number is not None:
        number = number.lower()
        index = int(number) - 1 if number.isdigit() else _NUMBERS.index(number) - 1
    else:
        index = pictures - 1 if ordinal.lower() == "last" else _ORDINALS.index(ordinal.lower())
    if not 0 <= index < pictures:
        return None, words
    bare = f"{words[: found[0].start()]} {words[found[0].end() :]}"
    return index, re.sub(r"\s+([?.!,])", r"\1", " ".join(bare.split())) or "what is this?"
