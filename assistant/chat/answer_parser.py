"""Model text to phrases and boxes, also while it is still arriving."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, message_chunk_to_message
from langchain_core.output_parsers.transform import BaseTransformOutputParser

from fourfold.assistant.grounding import ONLY_NUMBERS, BoxFormat, Grounded, parse
from fourfold.prompts.errors import UserError

# What may be the beginning of markup that the next chunk completes: an open brace with nothing but a box after it, a
# tag, a row of numbers in angle brackets (a box without braces), an HTML entity.
_UNFINISHED = re.compile(
    r"(?:\{\s*(?:<(?:[-+\d.,<>\s]|delim)*(?:d|de|del|deli)?)?"
    r"|(?:<\d{1,3}>){0,4}(?:<[/\w]{0,6})?"
    r"|&[#\w]{0,8})\Z"
)
_LONGEST_BARE = 40  # characters that unfinished markup without a brace takes at most


# The same for all other families: a tag, a point before its words, numbers that may go on, a list before its first
# object, numbers in brackets that others may follow.
_OPENED = re.compile(
    r"(?:<[^<>]{0,300}|<(?:point|track)s?\s[^<>]{0,300}>[^<>]{0,100}(?:<[^<>]{0,10})?|(?:[-+.%\d]{1,24}[\s,;]{0,3}){1,8}"
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
    # It begins at the last brace, which holds no other one, or close to the end: no need to look at a long text again.
    brace = text.rfind("{")
    match = _UNFINISHED.match(text, brace) if brace >= 0 else None
    match = match or _UNFINISHED.search(text, max(len(text) - _LONGEST_BARE, 0))
    return parse(text[: match.start()] if match else text)


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


class GrowingAnswer:
    """An answer that arrives in pieces, read by one thread or task; its attributes may be looked at from any other.

    Args:
        box_format: how the model that writes it writes boxes.
        size: of the image that it is about, for pixels.

    Attributes:
        pieces: what arrived, in order.
        text: of all pieces.
        first, last: when its first words and its end arrived, by `time.monotonic`; None until then.
    """

    def __init__(self, box_format: BoxFormat = BoxFormat.TOKENS, size: tuple[int, int] | None = None) -> None:
        self._box_format, self._size = box_format, size
        self.pieces: list[str | BaseMessage] = []
        self.text = ""
        self.first: float | None = None
        self.last: float | None = None
        self._shown: Grounded | None = None

    @property
    def message(self) -> AIMessage:
        """All pieces as one message."""
        if not self.pieces:
            return AIMessage("")
        first, *others = self.pieces
        whole: Any = first + others if others else first  # type: ignore[operator]
        return message_chunk_to_message(whole) if isinstance(whole, BaseMessage) else AIMessage(whole)  # type: ignore[return-value]

    def read(self, pieces: Iterator[str | BaseMessage]) -> Iterator[Grounded]:
        """The answer so far whenever it looks different; the last one is the whole.

        Raises:
            UserError: an endpoint that speaks OpenAI's protocol broke off in the middle.
        """
        for piece in pieces:
            yield from self._add(piece)
        yield from self._end()

    async def aread(self, pieces: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Grounded]:
        async for piece in pieces:
            for answer in self._add(piece):
                yield answer
            # Pieces that have arrived already come without a pause, and others (a cancellation) want their turn.
            await asyncio.sleep(0)
        for answer in self._end():
            yield answer

    def _add(self, piece: str | BaseMessage) -> Iterator[Grounded]:
        self.pieces.append(piece)
        if text := piece if isinstance(piece, str) else str(piece.text):
            self.first = self.first or time.monotonic()
            self.text += text
        return self._changed(parse_so_far(self.text, self._box_format, self._size))

    def _end(self) -> Iterator[Grounded]:
        told = [piece.response_metadata for piece in self.pieces if isinstance(piece, BaseMessage)]
        if any(t.get("model_provider") == "openai" for t in told) and not any(t.get("finish_reason") for t in told):
            # A connection that is closed early looks like an end, but that protocol gives every answer a reason for it.
            raise UserError("the connection broke off in the middle of the answer; try again")
        self.last = time.monotonic()
        return self._changed(parse(self.text, self._box_format, self._size))

    def _changed(self, answer: Grounded) -> Iterator[Grounded]:
        if answer != self._shown:
            self._shown = answer
            yield answer


class AnswerParser(BaseTransformOutputParser[Grounded]):
    """The last step of a chain: a model's message becomes a `Grounded`.

    `invoke` gives the whole answer; `stream` gives the answer so far, again and again (the last one is the whole), and
    never shows a box that is cut between two chunks. No text makes it fail; malformed boxes are reported in the answer.

    Attributes:
        box_format: how the model writes boxes.
        size: width and height of the image, for a model that writes pixels.
    """

    box_format: BoxFormat = BoxFormat.TOKENS
    size: tuple[int, int] | None = None

    def parse(self, text: str) -> Grounded:
        return parse(text, self.box_format, self.size)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Grounded]:
        return GrowingAnswer(self.box_format, self.size).read(input)

    def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Grounded]:
        return GrowingAnswer(self.box_format, self.size).aread(input)
