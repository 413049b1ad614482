"""Which of a conversation's pictures a question names: "picture 2", "the second photo", "the last image"."""

import re
from dataclasses import dataclass

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBERS = ("one", "two", "three", "four", "five")
_PICTURE = r"(?:picture|image|photo|photograph|pic)"
_NAMED = re.compile(
    rf"\b(?:the\s+)?(?:{_PICTURE}\s*(?:number\s+|no\.?\s*|#\s*)?(\d{{1,3}}|{'|'.join(_NUMBERS)})"
    rf"|({'|'.join(_ORDINALS)}|last)\s+{_PICTURE})\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class NamedPicture:
    """A picture that a question names.

    Attributes:
        index: counted from 0; there may be no such picture.
        start, end: where the question names it, its article included.
    """

    index: int
    start: int
    end: int


def named_pictures(words: str, pictures: int) -> list[NamedPicture]:
    """The pictures that a question names, in the order of its words.

    Args:
        words: of the question.
        pictures: how many there are; "the last" is one of them.
    """
    found = []
    for match in _NAMED.finditer(words):
        number, ordinal = match.groups()
        if ordinal is not None:
            index = pictures - 1 if ordinal.lower() == "last" else _ORDINALS.index(ordinal.lower())
        else:
            index = int(number) - 1 if number.isdigit() else _NUMBERS.index(number.lower())
        found.append(NamedPicture(index, match.start(), match.end()))
    return found
