"""Answers as the `openai` package's own response types, so that its clients cannot be surprised."""

import time
import uuid
from collections.abc import Sequence
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

from fourfold.serving.engine.requests import Completion, Delta, FinishReason, TokenLogprob


@dataclass(frozen=True)
class ChatResponse:
    """What all objects of one answer have in common; `model` is the name that the client asked for."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completions: Sequence[Completion]) -> ChatCompletion:
        """The object of an answer that is not streamed, with a choice for each completion."""
        choices = [
            Choice(
                index=index,
                message=ChatCompletionMessage(role="assistant", content=completion.text, refusal=None),
                finish_reason=_finish_reason(completion.finish_reason),
                logprobs=None
                if completion.logprobs is None
                else ChoiceLogprobs(content=[_token(token) for token in completion.logprobs]),
            )
            for index, completion in enumerate(completions)
        ]
        return ChatCompletion(**self._head(), object="chat.completion", choices=choices, usage=usage(completions))

    def opening(self, index: int) -> ChatCompletionChunk:
        return self._choice(index, ChoiceDelta(role="assistant", content=""))

    def piece(self, index: int, delta: Delta, *, logprobs: bool) -> ChatCompletionChunk:
        """A chunk of a choice, closing it where the delta does."""
        return self._choice(
            index,
            ChoiceDelta(content=delta.text) if delta.text or not delta.finish_reason else ChoiceDelta(),
            finish_reason=_finish_reason(delta.finish_reason) if delta.finish_reason else None,
            logprobs=ChunkLogprobs(content=[_token(token) for token in delta.logprobs]) if logprobs else None,
        )

    def closing(self, completions: Sequence[Completion]) -> ChatCompletionChunk:
        """The chunk without choices that carries the usage of all of them."""
        return self._chunk([], usage(completions))

    def _choice(
        self,
        index: int,
        delta: ChoiceDelta,
        finish_reason: Literal["stop", "length"] | None = None,
        logprobs: ChunkLogprobs | None = None,
    ) -> ChatCompletionChunk:
        return self._chunk([ChunkChoice(index=index, delta=delta, finish_reason=finish_reason, logprobs=logprobs)])

    def _chunk(self, choices: list[ChunkChoice], usage: CompletionUsage | None = None) -> ChatCompletionChunk:
        more: dict[str, Any] = {"usage": usage} if usage else {}  # what is not set is not sent
        return ChatCompletionChunk(**self._head(), object="chat.completion.chunk", choices=choices, **more)

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "created": self.created, "model": self.model}


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


def _finish_reason(reason: FinishReason) -> Literal["stop", "length"]:
    # Cut off from outside: the API's nearest word for "there would have been more".
    return "length" if reason == "cancelled" else reason


def _token(token: TokenLogprob) -> ChatCompletionTokenLogprob:
    top = [TopLogprob(token=t.text, bytes=_bytes(t), logprob=t.logprob) for t in token.top]
    return ChatCompletionTokenLogprob(token=token.text, bytes=_bytes(token), logprob=token.logprob, top_logprobs=top)


def _bytes(token: TokenLogprob) -> list[int] | None:
    # A token that is part of a character has no text of its own; the API allows null for its bytes.
    return None if "\ufffd" in token.text else list(token.text.encode())
