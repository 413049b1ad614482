"""What a conversation asks at its end, and about which of its pictures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fourfold.assistant.chat.intent import intent_of
from fourfold.assistant.chat.picture_numbers import named_pictures
from fourfold.assistant.english import COLOURS, number_of
from fourfold.serving.looking.sentences import definite, means_several

_IS, _IN = re.compile(r"\s*(?:is|are)\b", re.IGNORECASE), re.compile(r"\b(?:in|on)$", re.IGNORECASE)
_BEFORE = re.compile(r"\b(?:in|on|of|about|at|from|for)\s*$", re.IGNORECASE)
"""Goes with the name of a picture."""
_IT = re.compile(
    r"(?:(?:and|so|but)\s+)?((?:where(?:'s|\s+is)|what\s+colou?r\s+is|what\s+is\s+the\s+colou?r\s+of"
    r"|point\s+(?:at|to)|find|locate|show\s+me)\s+it"
    rf"|is\s+it\s+(?:{'|'.join(COLOURS)}|grey))\W*",
    re.IGNORECASE,
)
"""Asks about what a question before it named."""


@dataclass(frozen=True)
class Asked:
    """The question that an answer is wanted to.

    Attributes:
        words: its text, without the number of a picture.
        pictures: how many there are in the conversation.
        image: that it is about: the one that it names by its number, counted from 1 through the conversation, or the
            last one; None where there is none, or several came last and none is named.
        is_last: whether that is what the model would look at anyway.
        messages: the conversation with this picture alone and these words, or with the noun that "it" stands for; the
            same where `is_last`.
        named: whether the question names the picture.
    """

    words: str
    pictures: int
    image: Image.Image | None
    is_last: bool
    messages: list[dict[str, Any]]
    named: bool = False

    @property
    def means_it(self) -> bool:
        """Whether it is about an "it" that no question before it names."""
        return _IT.fullmatch(self.words.strip()) is not None


def read_question(messages: Sequence[dict[str, Any]]) -> Asked:
    """Read the end of a conversation in `Request.messages`' form; one that ends with no question has no words."""
    images = [part["image"] for message in messages for part in _parts(message) if part.get("type") == "image"]
    if not messages or messages[-1].get("role") != "user":
        return Asked("", len(images), None, True, list(messages))
    words = "\n".join(part["text"] for part in _parts(messages[-1]) if part.get("type") == "text")
    resolved = _with_noun(words, messages)
    if resolved is not None:
        words = resolved
        messages = [*messages[:-1], {**messages[-1], "content": [{"type": "text", "text": words}]}]
    number, bare = _picture_named(words, len(images))
    if number is not None:
        content = [{"type": "image", "image": images[number]}, {"type": "text", "text": bare}]
        return Asked(bare, len(images), images[number], False, [{"role": "user", "content": content}], True)
    for message in reversed(messages):
        shown = [part["image"] for part in _parts(message) if part.get("type") == "image"]
        if shown:
            image = shown[0] if len(shown) == 1 else None
            return Asked(words, len(images), image, resolved is None, list(messages))
    return Asked(words, 0, None, True, list(messages))


def _with_noun(words: str, messages: Sequence[dict[str, Any]]) -> str | None:
    """A question about "it" with the one thing that the last question before, of the same picture, names; else None."""
    asked = _IT.fullmatch(words.strip())
    if asked is None:
        return None
    later = messages[-1]
    for message in reversed(messages[:-1]):
        if any(part.get("type") == "image" for part in _parts(later)):
            return None  # "it" is in the new picture
        if message.get("role") != "user":
            continue
        later = message
        before = "\n".join(part["text"] for part in _parts(message) if part.get("type") == "text").strip()
        if not _IT.fullmatch(before):
            intent = intent_of(before)
            one = intent is not None and intent.phrase and not intent.other and number_of(intent.phrase) is None
            if intent is None or not one or means_several(intent.phrase):
                return None
            start, end = re.split(r"\bit\b", asked[1], maxsplit=1, flags=re.IGNORECASE)
            return f"{start}{definite(intent.phrase)}{end}?"
    return None


def _parts(message: dict[str, Any]) -> Sequence[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else [{"type": "text", "text": content or ""}]


def _picture_named(words: str, pictures: int) -> tuple[int | None, str]:
    """Index of the one picture that a question names, and the question without it; None where it names none or more."""
    found = named_pictures(words, pictures)
    if pictures < 2 or len(found) != 1 or not 0 <= found[0].index < pictures:
        return None, words
    [one] = found
    before = words[: one.start].rstrip()
    # "is Rex in picture 2?" asks whether he is there.
    there = " in the picture" if _IN.search(before) and _IS.match(words) else ""
    bare = f"{_BEFORE.sub('', before)}{there} {words[one.end :]}"
    return one.index, re.sub(r"\s+([?.!,])", r"\1", " ".join(bare.split())) or "what is this?"
