"""Model text to phrases and boxes, also while it is still arriving."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, message_chunk_to_message
from langchain_core.output_parsers.transform import BaseTransformOutputParser

from fourfold.assistant.chat.thinking import split_thought, split_thought_so_far
from fourfold.assistant.grounding import BoxFormat, Grounded, parse, parse_so_far, settled
from fourfold.assistant.unicode import well_formed

LONGEST_ANSWER = 100_000
"""Characters of an answer that are read and kept; an endpoint may send without end."""


class GrowingAnswer:
    """An answer that arrives in pieces, read by one thread or task; its attributes may be looked at from any other.

    What a model thought before it answered is kept apart. Halves of characters are joined or replaced, zero bytes left
    out, and what is longer than `longest` is cut off.

    Args:
        box_format: how the model that writes it writes boxes.
        size: of the image that it is about, for pixels.
        longest: characters of it that are read.

    Attributes:
        pieces: what arrived, in order.
        written: the text of all pieces.
        first, last: when its first words and its end arrived, by `time.monotonic`; None until then.
        cut: whether it was cut off for its length.
    """

    def __init__(
        self,
        box_format: BoxFormat = BoxFormat.TOKENS,
        size: tuple[int, int] | None = None,
        longest: int = LONGEST_ANSWER,
    ) -> None:
        self._box_format, self._size, self._longest = box_format, size, longest
        self.pieces: list[str | BaseMessage] = []
        self.written = ""
        self._apart = ""  # thoughts that came beside the text
        self.first: float | None = None
        self.last: float | None = None
        self.cut = False
        self._half = ""  # of a character whose other half is to come
        self._read_at = 0  # length from which on the text is read again
        self._shown: Grounded | None = None

    @property
    def text(self) -> str:
        """The answer, without what was thought."""
        return (split_thought if self.last else split_thought_so_far)(self.written).answer

    @property
    def thought(self) -> str | None:
        """What was thought before it; None for nothing."""
        return self._apart or (split_thought if self.last else split_thought_so_far)(self.written).thought

    @property
    def message(self) -> AIMessage:
        """All pieces as one message."""
        try:
            first, *others = self.pieces
            whole: Any = first + others if others else first  # type: ignore[operator]
            made = message_chunk_to_message(whole) if isinstance(whole, BaseMessage) else None
        except (TypeError, ValueError):  # none, or what an endpoint put beside its words does not go together
            made = None
        kept = made.model_copy(update={"content": self.text}) if isinstance(made, AIMessage) else AIMessage(self.text)
        usage = [piece.usage_metadata for piece in self.pieces if isinstance(piece, AIMessage) and piece.usage_metadata]
        if usage:  # where every piece tells the sum so far, the last one knows it
            kept.usage_metadata = usage[-1]
        if (thought := self.thought) is not None:
            kept.additional_kwargs["reasoning_content"] = thought
        if reason := self.finish_reason:
            kept.response_metadata["finish_reason"] = reason
        return kept

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, as the endpoint says; "length" where it was cut off here, None where nothing was said."""
        if self.cut:
            return "length"
        told = [piece.response_metadata.get("finish_reason") for piece in self.pieces if isinstance(piece, BaseMessage)]
        return next((str(reason) for reason in reversed(told) if reason), None)

    @property
    def kept(self) -> str:
        """The text as it is worth keeping: where it ended early, without half a box at its end."""
        whole = self.last is not None and self.finish_reason != "length"
        return self.text if whole else settled(self.text, self._box_format)

    def read(self, pieces: Iterator[str | BaseMessage]) -> Iterator[Grounded]:
        """The answer so far whenever it looks different; the last one is the whole."""
        for piece in pieces:
            yield from self._add(piece)
            if self.cut:
                getattr(pieces, "close", lambda: None)()
                break
        yield from self._end()

    async def aread(self, pieces: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Grounded]:
        async for piece in pieces:
            for answer in self._add(piece):
                yield answer
            if self.cut:
                if (close := getattr(pieces, "aclose", None)) is not None:
                    await close()
                break
            # Pieces that have arrived already come without a pause, and others (a cancellation) want their turn.
            await asyncio.sleep(0)
        for answer in self._end():
            yield answer

    def _add(self, piece: str | BaseMessage) -> Iterator[Grounded]:
        self.pieces.append(piece)
        text = piece if isinstance(piece, str) else str(piece.text)
        beside = None if isinstance(piece, str) else piece.additional_kwargs.get("reasoning_content")
        if text or beside:
            self.first = self.first or time.monotonic()
        if isinstance(beside, str) and len(self._apart) < self._longest:
            self._apart = well_formed(self._apart + beside)[: self._longest]
        if text:
            text = self._half + text
            self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
            self.written += well_formed(text.removesuffix(self._half)).replace("\0", "")
            if len(self.written) > self._longest:
                self.written, self.cut = self.written[: self._longest], True
        if len(self.written) < self._read_at:
            return iter(())
        self._read_at = len(self.written) + len(self.written) // 200  # a long one is not read again a thousand times
        return self._changed(parse_so_far(self.text, self._box_format, self._size))

    def _end(self) -> Iterator[Grounded]:
        self.written += "\ufffd" if self._half else ""
        self.last = time.monotonic()
        return self._changed(parse(self.kept, self._box_format, self._size))

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
        return parse(split_thought(text).answer, self.box_format, self.size)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Grounded]:
        return GrowingAnswer(self.box_format, self.size).read(input)

    def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Grounded]:
        return GrowingAnswer(self.box_format, self.size).aread(input)
