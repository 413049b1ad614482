"""Reading a text for its boxes while it is still arriving."""

import re

from fourfold.assistant.grounding.answers import parse
from fourfold.assistant.grounding.conventions import BoxFormat
from fourfold.assistant.grounding.grounded import Grounded
from fourfold.assistant.grounding.markup import ONLY_NUMBERS

# What may be the beginning of markup that the next chunk completes: an open brace with nothing but a box after it, a
# tag, a row of numbers in angle brackets (a box without braces), an HTML entity.
_UNFINISHED = re.compile(
    r"(?:\{\s*(?:<(?:[-+\d.,<>\s]|delim)*(?:d|de|del|deli)?)?"
    r"|(?:<\d{1,3}>){0,4}(?:<[/\w]{0,6})?"
    r"|&[#\w]{0,8})\Z"
)
_LONGEST_BARE = 40  # characters that unfinished markup without a brace takes at most


# The same for all other families: a tag, a point before its words, numbers that may go on, a list before its first
# object, numbers in brackets that others may follow. Nothing that a row of numbers has matched is given back: there are
# astronomically many ways to cut a long one into eight.
_OPENED = re.compile(
    r"(?:<[^<>]{0,300}|<(?:point|track)s?\s[^<>]{0,300}>[^<>]{0,100}(?:<[^<>]{0,10})?|(?:[-+.%\d]{1,24}+[\s,;]{0,3}+){1,8}+"
    r"|(?:```(?:json)?\s{0,4})?(?:\[\s{0,8}){1,4}|(?:[\[(][-+.%\d\s,;]{1,80}[\])][\s,;]{0,4}){1,4})\Z"
)
_LONGEST_OBJECT = 600  # characters of JSON that are held back until they are closed


def parse_so_far(text: str, box_format: BoxFormat = BoxFormat.TOKENS, size: tuple[int, int] | None = None) -> Grounded:
    """Read a text whose end may be missing: markup that is still incomplete is held back, not shown and not malformed.

    As more text arrives, `plain` and the boxes only grow. `box_format` and `size` are those of `parse`.
    """
    if box_format is not BoxFormat.TOKENS:
        whole = "" if ONLY_NUMBERS.fullmatch(text) else text[: _unfinished_from(text)]
        return parse(whole, box_format, size)
    if ONLY_NUMBERS.fullmatch(text):  # it may become a box of four bare numbers; a count is worth the short wait
        return parse("")
    return parse(text[: _unfinished_tokens_from(text)])


def settled(text: str, box_format: BoxFormat = BoxFormat.TOKENS) -> str:
    """A text that ended early, without the markup that it left unfinished: nobody wants to read half a box."""
    cut = _unfinished_tokens_from(text) if box_format is BoxFormat.TOKENS else _unfinished_from(text)
    if text[cut : cut + 1] not in ("<", "{", "[", "&"):  # a number or a word is worth keeping
        cut = len(text)
    return re.sub(r"(?:<p>|<delim>|\s)*\Z", "", text[:cut])


def _unfinished_tokens_from(text: str) -> int:
    # It begins at the last brace, which holds no other one, or close to the end: no need to look at a long text again.
    brace = text.rfind("{")
    match = _UNFINISHED.match(text, brace) if brace >= 0 else None
    match = match or _UNFINISHED.search(text, max(len(text) - _LONGEST_BARE, 0))
    return match.start() if match else len(text)


def _unfinished_from(text: str) -> int:
    """Where the part of a text begins whose end decides what it is: an object, a bracket, a tag, a number."""
    first, depth = max(len(text) - _LONGEST_OBJECT, 0), 0
    objects: list[int] = []
    brackets: list[int] = []
    for place in range(len(text) - 1, first - 1, -1):
        if text[place] in ")]}":
            depth += 1
        elif text[place] in "([{":
            if depth:
                depth -= 1
            else:
                (objects if text[place] == "{" else brackets).append(place)
    # Objects of a list that is still open are whole one by one.
    inner = [place for place in brackets if not text[place + 1 :].lstrip().startswith("{")]
    cut = min([*objects, *inner], default=len(text))
    match = _OPENED.search(text, max(cut - 320, 0), cut)
    return match.start() if match else cut
