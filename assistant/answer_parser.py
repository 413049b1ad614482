"""Model text to phrases and boxes, also while it is still arriving."""

import re
from collections.abc import AsyncIterator, Iterator

from langchain_core.messages import BaseMessage
from langchain_core.output_parsers.transform import BaseTransformOutputParser

from assistant.grounding import Grounded, parse

# What may be the beginning of markup that the next chunk completes: an open brace with nothing but a box after it, a
# tag, a row of numbers in angle brackets (a box without braces), an HTML entity.
_UNFINISHED = re.compile(
    r"(?:\{\s*(?:<(?:[-+\d.,<>\s]|delim)*(?:d|de|del|deli)?)?"
    r"|(?:<\d{1,3}>){0,4}(?:<[/\w]{0,6})?"
    r"|&[#\w]{0,8})\Z"
)
_NUMBERS = re.compile(r"[\d\s,;<>()\[\]{}]*\.?\s*")


def parse_so_far(text: str) -> Grounded:
    """Read a text whose end may be missing: markup that is still incomplete is held back, not shown and not malformed.

    As more text arrives, `plain` and the boxes only grow.
    """
    if _NUMBERS.fullmatch(text):  # it may become a box of four bare numbers; a count is worth the short wait
        return parse("")
    match = _UNFINISHED.search(text)
    return parse(text[: match.start()] if match else text)


class AnswerParser(BaseTransformOutputParser[Grounded]):
    """The last step of a chain: a model's message becomes a `Grounded`.

    `invoke` gives the whole answer; `stream` gives the answer so far, again and again (the last one is the whole), and
    never shows a box that is cut between two chunks. No text makes it fail; malformed boxes are reported in the answer.
    """

    def parse(self, text: str) -> Grounded:
        """Read a whole text."""
        return parse(text)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Grounded]:
        text, last = "", None
        for chunk in input:
            text += _text(chunk)
            answer = parse_so_far(text)
            if answer != last:
                yield answer
                last = answer
        whole = parse(text)
        if whole != last:
            yield whole

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Grounded]:
        text, last = "", None
        async for chunk in input:
            text += _text(chunk)
            answer = parse_so_far(text)
            if answer != last:
                yield answer
                last = answer
        whole = parse(text)
        if whole != last:
            yield whole


def _text(chunk: str | BaseMessage) -> str:
    return chunk if isinstance(chunk, str) else str(chunk.text)
