"""Calls of tools in an answer that is still arriving: what is words, and what is a call."""

import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_FORCED = re.compile(r'\{"name": "([^"]+)", "arguments": ')
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class CallPiece:
    """A piece of a call.

    Attributes:
        index: which of the answer's calls.
        name: with the first piece of each.
        id: with the first piece of each.
        arguments: the next part of its JSON.
    """

    index: int
    arguments: str
    name: str | None = None
    id: str | None = field(default=None, compare=False)


class ForcedCallReader:
    """Reads the one call of an answer that `ToolUse.form` has formed; its arguments are let out as they come."""

    def __init__(self) -> None:
        self._text = ""
        self._sent = 0

    @property
    def called(self) -> bool:
        """Whether there is a call."""
        return self._sent > 0

    def push(self, text: str) -> Iterator[str | CallPiece]:
        """What became certain with a piece of the answer: words or a piece of a call."""
        self._text += text
        opening = _FORCED.match(self._text)
        if opening is None:
            return
        if not self._sent:
            yield CallPiece(0, "", opening[1], new_id())
            self._sent = opening.end()
        # The last sign may be the brace that closes the whole.
        if piece := self._text[self._sent : -1]:
            self._sent += len(piece)
            yield CallPiece(0, piece)

    def finish(self, *, whole: bool) -> Iterator[str | CallPiece]:
        """The rest, of an answer that came to its own end or (not `whole`) was cut."""
        if not self._sent:
            if self._text:
                yield self._text
        elif not whole and self._sent < len(self._text):
            yield CallPiece(0, self._text[self._sent :])


class ToolCallReader:
    """Reads what a model that was told of tools makes of them.

    A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen) somewhere in the answer, or JSON
    that is all of it (Llama 3, which says `parameters`); what is neither is words.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.called = False
        self._names = names
        self._text = ""
        self._sent = 0

    def push(self, text: str) -> Iterator[str | CallPiece]:
        self._text += text
        if self._text.lstrip()[:1] in ("", "{", "["):
            return
        end = self._text.find(_OPEN)
        if end < 0:
            end = len(self._text) - _open_end(self._text)
        if end > self._sent:
            yield self._text[self._sent : end]
            self._sent = end

    def finish(self, *, whole: bool) -> Iterator[str | CallPiece]:
        rest = self._text[self._sent :]
        if not rest.lstrip().startswith(_OPEN):
            calls = self._calls(rest)
            yield from _pieces(calls, 0) if calls else [rest] if rest else []
            return
        index = 0
        words = ""
        for part in rest.split(_OPEN):
            inside, _, behind = part.partition(_CLOSE)
            calls = self._calls(inside)
            if not calls:
                words += part.strip()  # no call of ours, or cut in the middle
                continue
            yield from _pieces(calls, index)
            index += len(calls)
            words += behind.strip()
        if words:
            yield words

    def _calls(self, text: str) -> list[tuple[str, Any]]:
        """The calls in a text that is nothing else; none where it holds anything else."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return []
        calls = []
        for call in value if isinstance(value, list) else [value]:
            if not isinstance(call, dict) or call.get("name") not in self._names:
                return []
            arguments = call.get("arguments", call.get("parameters", {}))
            if not isinstance(arguments, dict):
                return []
            calls.append((call["name"], arguments))
        self.called = self.called or bool(calls)
        return calls


CallReader = ForcedCallReader | ToolCallReader


def new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _pieces(calls: list[tuple[str, Any]], first: int) -> Iterator[CallPiece]:
    for index, (name, arguments) in enumerate(calls, first):
        yield CallPiece(index, json.dumps(arguments, ensure_ascii=False), name, new_id())


def _open_end(text: str) -> int:
    """Length of the longest end of a text that could become the opening of a call."""
    return next((length for length in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:length])), 0)
