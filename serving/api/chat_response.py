"""Answers as the `openai` package's own response types, so that its clients cannot be surprised."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_usage import CompletionUsage, PromptTokensDetails
from pydantic import BaseModel

from fourfold.serving.api.tool_calls import CallPiece, CallReader
from fourfold.serving.engine.requests import Completion, Delta, FinishReason, TokenLogprob
from fourfold.serving.looking import Looked


@dataclass(frozen=True)
class ChatResponse:
    """What all objects of one answer have in common.

    Attributes:
        model: the name that the client asked for.
        call_reader: makes a reader for the calls of tools in a choice, see `ToolUse.reader`; None where it is words.
    """

    model: str
    call_reader: Callable[[], CallReader | None] = lambda: None
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _readers: dict[int, CallReader | None] = field(default_factory=dict)

    def whole(self, completions: Sequence[Completion], looked: Looked | None = None) -> ChatCompletion:
        """The object of an answer that is not streamed, with a choice for each completion.

        Where eyes looked, each message has its `claims`, see `serving.looking.Claim`.
        """
        choices = [
            Choice(
                index=index,
                message=ChatCompletionMessage(
                    role="assistant", refusal=None, **_message(reader, completion), **_claims(looked, completion)
                ),
                finish_reason=_finish_reason(completion.finish_reason, reader),
                logprobs=None
                if completion.logprobs is None
                else ChoiceLogprobs(content=[_token(token) for token in completion.logprobs]),
                **_stop_reason(completion),
            )
            for index, completion in enumerate(completions)
            for reader in [self.call_reader()]
        ]
        return ChatCompletion(**self._head(), object="chat.completion", choices=choices, usage=usage(completions))

    def opening(self, index: int) -> ChatCompletionChunk:
        return self._choice(index, ChoiceDelta(role="assistant", content=""))

    def piece(
        self, index: int, delta: Delta, *, logprobs: bool, looked: Looked | None = None
    ) -> ChatCompletionChunk | None:
        """A chunk of a choice, closing it where the delta does; the closing one has the `claims` where eyes looked.

        None where it is not yet certain what the delta is part of.
        """
        more = _claims(looked, delta.completion) if delta.completion else {}
        if (reader := self._reader(index)) is not None:
            pieces = [*reader.push(delta.text)]
            if delta.finish_reason:
                pieces += reader.finish(whole=delta.finish_reason == "stop")
            more |= _delta(pieces)
            if not (more or delta.finish_reason or logprobs):
                return None
        elif delta.text or not delta.finish_reason:
            more["content"] = delta.text
        return self._choice(
            index,
            ChoiceDelta(**more),
            finish_reason=_finish_reason(delta.finish_reason, reader) if delta.finish_reason else None,
            logprobs=ChunkLogprobs(content=[_token(token) for token in delta.logprobs]) if logprobs else None,
            **_stop_reason(delta.completion),
        )

    def closing(self, completions: Sequence[Completion]) -> ChatCompletionChunk:
        """The chunk without choices that carries the usage of all of them."""
        return self._chunk([], usage(completions))

    def _reader(self, index: int) -> CallReader | None:
        if index not in self._readers:
            self._readers[index] = self.call_reader()
        return self._readers[index]

    def _choice(
        self,
        index: int,
        delta: ChoiceDelta,
        finish_reason: Literal["stop", "length", "tool_calls"] | None = None,
        logprobs: ChunkLogprobs | None = None,
        **more: Any,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, finish_reason=finish_reason, logprobs=logprobs, **more)
        return self._chunk([choice])

    def _chunk(self, choices: list[ChunkChoice], usage: CompletionUsage | None = None) -> ChatCompletionChunk:
        more: dict[str, Any] = {"usage": usage} if usage else {}  # what is not set is not sent
        return ChatCompletionChunk(**self._head(), object="chat.completion.chunk", choices=choices, **more)

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "created": self.created, "model": self.model}


def _message(reader: CallReader | None, completion: Completion) -> dict[str, Any]:
    """Words and calls of a whole answer."""
    if reader is None:
        return {"content": completion.text}
    found = _delta([*reader.push(completion.text), *reader.finish(whole=completion.finish_reason == "stop")])
    calls = [{**call, "type": "function"} for call in found.get("tool_calls", ())]
    return {"content": found.get("content"), **({"tool_calls": calls} if calls else {})}


def _delta(pieces: Sequence[str | CallPiece]) -> dict[str, Any]:
    """Words and calls that became certain together."""
    words = "".join(piece for piece in pieces if isinstance(piece, str))
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if isinstance(piece, str):
            continue
        call = calls.setdefault(piece.index, {"index": piece.index, "function": {"arguments": ""}})
        call["function"]["arguments"] += piece.arguments
        if piece.name is not None:
            call |= {"id": piece.id, "type": "function"}
            call["function"]["name"] = piece.name
    return {**({"content": words} if words else {}), **({"tool_calls": [*calls.values()]} if calls else {})}


def _claims(looked: Looked | None, completion: Completion) -> dict[str, Any]:
    return {} if looked is None else {"claims": [claim.to_json() for claim in looked.claims(completion.text)]}


def usage(completions: Sequence[Completion]) -> CompletionUsage:
    """Tokens of a request: the prompt once, however many answers were drawn from it."""
    prompt = completions[0].prompt_tokens
    answers = sum(completion.completion_tokens for completion in completions)
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=answers,
        total_tokens=prompt + answers,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=completions[0].cached_tokens),
    )


def encode(response: BaseModel) -> str:
    """JSON as the API writes it: `logprobs`, `finish_reason` and the like stay as null, unset extras are left out."""
    return response.model_dump_json(exclude_unset=True)


def _stop_reason(completion: Completion | None) -> dict[str, Any]:
    """vLLM's field beside `finish_reason`: the stop string that ended the answer, where one did."""
    return {"stop_reason": completion.stop_reason} if completion and completion.stop_reason is not None else {}


def _finish_reason(reason: FinishReason, reader: CallReader | None) -> Literal["stop", "length", "tool_calls"]:
    if reason == "stop" and reader is not None and reader.called:
        return "tool_calls"
    # Cut off from outside: the API's nearest word for "there would have been more".
    return "length" if reason == "cancelled" else reason


def _token(token: TokenLogprob) -> ChatCompletionTokenLogprob:
    top = [TopLogprob(token=t.text, bytes=list(t.bytes), logprob=t.logprob) for t in token.top]
    return ChatCompletionTokenLogprob(
        token=token.text, bytes=list(token.bytes), logprob=token.logprob, top_logprobs=top
    )
