"""Answers of POST /v1/messages, made of chat completions."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.completion_usage import CompletionUsage

from fourfold.serving.api.errors import ApiError

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class MessagesDialect:
    """Writes one answer."""

    def __init__(self) -> None:
        self._id = f"msg_{uuid.uuid4().hex}"
        self._blocks = 0  # begun
        self._kind = ""  # of the one that is open
        self._ended: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}

    def whole(self, completion: ChatCompletion) -> str:
        choice = completion.choices[0]
        calls = choice.message.tool_calls or []
        content: list[dict[str, Any]] = []
        if choice.message.content or not calls:
            content.append({"type": "text", "text": choice.message.content or ""})
        for call in calls:
            assert call.type == "function"
            arguments = json.loads(call.function.arguments)
            content.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": arguments})
        assert completion.usage is not None
        message = self._message(completion.model, content, _usage(completion.usage))
        return json.dumps({**message, **_ended(choice)})

    def opening(self, chunk: ChatCompletionChunk, prompt_tokens: int) -> Iterator[str]:
        # How much of the prompt comes from the cache is known at the end only.
        usage = {"input_tokens": prompt_tokens, "output_tokens": 0}
        yield _event("message_start", message=self._message(chunk.model, [], usage))

    def piece(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        choice = chunk.choices[0]
        if choice.delta.content:
            yield from self._open("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": choice.delta.content})
        for call in choice.delta.tool_calls or ():
            name = (call.function and call.function.name) or ""
            if call.id:
                yield from self._open(call.id, {"type": "tool_use", "id": call.id, "name": name, "input": {}})
            if call.function and call.function.arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": call.function.arguments})
        if choice.finish_reason:
            self._ended = _ended(choice)

    def closing(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        if not self._blocks:
            yield from self._open("text", {"type": "text", "text": ""})  # an empty answer has a block too
        yield _event("content_block_stop", index=self._blocks - 1)
        assert chunk.usage is not None
        yield _event("message_delta", delta=self._ended, usage=_usage(chunk.usage))
        yield _event("message_stop")

    def failed(self, error: ApiError) -> Iterator[str]:
        yield f"event: error\ndata: {json.dumps(error.anthropic_body)}\n\n"

    def _open(self, kind: str, block: dict[str, Any]) -> Iterator[str]:
        if kind == self._kind:
            return
        if self._blocks:
            yield _event("content_block_stop", index=self._blocks - 1)
        self._kind = kind
        self._blocks += 1
        yield _event("content_block_start", index=self._blocks - 1, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> str:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _message(self, model: str, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": model}
        return {**head, "content": content, "stop_reason": None, "stop_sequence": None, "usage": usage}


def _ended(choice: Choice | ChunkChoice) -> dict[str, Any]:
    stop = (choice.model_extra or {}).get("stop_reason")
    if choice.finish_reason == "stop" and isinstance(stop, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": _STOP_REASONS[choice.finish_reason or "stop"], "stop_sequence": None}


def _usage(usage: CompletionUsage) -> dict[str, Any]:
    cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
    return {
        "input_tokens": usage.prompt_tokens - cached,  # in this API without what was cached
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }


def _event(type: str, **fields: Any) -> str:
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n"
