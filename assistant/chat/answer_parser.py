"""Model text to phrases and boxes, also while it is still arriving."""

import re
from collections.abc import AsyncIterator, Iterator

from langchain_core.messages import BaseMessage
from langchain_core.output_parsers.transform import BaseTransformOutputParser

from fourfold.assistant.grounding import Grounded, parse

# What may be the beginning of markup that the next chunk completes: an open brace with nothing but a box after it, a
# tag, a row of numbers in angle brackets (a box without braces), an HTML entity.
_UNFINISHED = re.compile(
    r"(?:\{\s*(?:<(?:[-+\d.,<>\s]|delim)*(?:d|de|del|deli)?)?"
    r"|(?:<\d{1,3}>){0,4}(?:<[/\w]{0,6})?"
    r"|&[#\w]{0,8})\Z"
)
_NUMBERS = re.compile(r"[\d\s,;<>()\[\]{}]*\.?\s*")


_LONGEST_BARE = 40  # characters that unfinished markup without a brace takes at most


def parse_so_far(text: str) -> Grounded:
    """Read a text whose end may be missing: markup that is still incomplete is held back, not shown and not malformed.

    As more text arrives, `plain` and the boxes only grow.
    """
    if _NUMBERS.fullmatch(text):  # it may become a box of four bare numbers; a count is worth the short wait
        return parse("")
    # It begins at the last brace, which holds no other one, or close to the end: no need to look at a long text again.
    brace = text.rfind("{")
    match = _UNFINISHED.match(text, brace) if brace >= 0 else None
    match = match or _UNFINISHED.search(text, max(len(text) - _LONGEST_BARE, 0))
    return parse(text[: match.start()] if match else text)


class GrowingAnswer:
    """An answer that arrives in pieces.

    Attributes:
        pieces: what arrived, in order.
    """

    def __init__(self) -> None:
        self.pieces: list[str | BaseMessage] = []
        self._text = ""
        self._shown: Grounded | None = None

    def add(self, piece: str | BaseMessage) -> Grounded | None:
        """Take a piece; the answer so far if it looks different now, else None."""
        self.pieces.append(piece)
        self._text += piece if isinstance(piece, str) else str(piece.text)
        return self._show(parse_so_far(self._text))

    def end(self) -> Grounded | None:
        """Nothing more comes: the whole answer, or None where it was shown already."""
        return self._show(parse(self._text))

    def _show(self, answer: Grounded) -> Grounded | None:
        if answer == self._shown:
            return None
        self._shown = answer
        return answer


class AnswerParser(BaseTransformOutputParser[Grounded]):
    """The last step of a chain: a model's message becomes a `Grounded`.

    `invoke` gives the whole answer; `stream` gives the answer so far, again and again (the last one is the whole), and
    never shows a box that is cut between two chunks. No text makes it fail; malformed boxes are reported in the answer.
    """

    def parse(self, text: str) -> Grounded:
        """Read a whole text."""
        return parse(text)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Grounded]:
        growing = GrowingAnswer()
        for chunk in input:
            if answer := growing.add(chunk):
                yield answer
        if answer := growing.end():
            yield answer

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Grounded]:
        growing = GrowingAnswer()
        async for chunk in input:
            if answer := growing.add(chunk):
                yield answer
        if answer := growing.end():
            yield answer
