"""Answers of POST /v1/responses, made of chat completions."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionTokenLogprob
from openai.types.completion_usage import CompletionUsage

from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.responses.request import ResponsesRequest


class ResponsesDialect:
    """Writes one answer. As events it keeps what it has sent, since the last ones repeat everything."""

    def __init__(self, body: ResponsesRequest) -> None:
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = time.time()
        self._sent = 0  # events
        self._items: list[dict[str, Any]] = []
        self._finish_reason: str | None = None

    def whole(self, completion: ChatCompletion) -> str:
        choice = completion.choices[0]
        if choice.message.content or not choice.message.tool_calls:
            logprobs = choice.logprobs.content if choice.logprobs else None
            self._items.append(_message(choice.message.content or "", logprobs))
        for call in choice.message.tool_calls or ():
            assert call.type == "function"
            self._items.append(_function_call(call.id, call.function.name, call.function.arguments))
        self._finish_reason = choice.finish_reason
        return json.dumps(self._response(completion.model, usage=completion.usage))

    def opening(self, chunk: ChatCompletionChunk, prompt_tokens: int) -> Iterator[str]:
        response = self._response(chunk.model)
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def piece(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        choice = chunk.choices[0]
        logprobs = choice.logprobs.content if choice.logprobs else None
        if choice.delta.content or logprobs:
            yield from self._text(choice.delta.content or "", logprobs or [])
        for call in choice.delta.tool_calls or ():
            function = call.function
            if call.id:
                yield from self._close()
                self._items.append(_function_call(call.id, (function and function.name) or "", "", "in_progress"))
                yield self._event("response.output_item.added", output_index=self._at, item=self._items[-1])
            if function and function.arguments:
                item = self._items[-1]
                item["arguments"] += function.arguments
                yield self._event(
                    "response.function_call_arguments.delta",
                    item_id=item["id"],
                    output_index=self._at,
                    delta=function.arguments,
                )
        self._finish_reason = choice.finish_reason or self._finish_reason

    def closing(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        if not self._items:
            yield from self._text("", [])  # an empty answer is a message too
        yield from self._close()
        response = self._response(chunk.model, usage=chunk.usage)
        yield self._event(f"response.{response['status']}", response=response)

    def failed(self, error: ApiError) -> Iterator[str]:
        response = self._response(self._body.model or "", error=error)
        yield self._event("response.failed", response=response)

    @property
    def _at(self) -> int:
        return len(self._items) - 1

    def _text(self, text: str, logprobs: list[ChatCompletionTokenLogprob]) -> Iterator[str]:
        if not self._items or self._items[-1]["type"] != "message":
            yield from self._close()
            self._items.append(_message("", None, "in_progress"))
            empty = {**self._items[-1], "content": []}
            yield self._event("response.output_item.added", output_index=self._at, item=empty)
            yield self._event("response.content_part.added", **self._place, part=self._part)
        part = self._part
        part["text"] += text
        tokens = [_token(token) for token in logprobs]
        part["logprobs"] = [*part["logprobs"], *tokens]
        yield self._event("response.output_text.delta", **self._place, delta=text, logprobs=tokens)

    def _close(self) -> Iterator[str]:
        """End the item that is being written, if there is one."""
        if not self._items or self._items[-1]["status"] != "in_progress":
            return
        item = self._items[-1]
        item["status"] = "incomplete" if self._finish_reason == "length" else "completed"
        if item["type"] == "message":
            part = self._part
            yield self._event("response.output_text.done", **self._place, text=part["text"], logprobs=part["logprobs"])
            yield self._event("response.content_part.done", **self._place, part=part)
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event(
                "response.function_call_arguments.done", item_id=item["id"], output_index=self._at, **done
            )
        yield self._event("response.output_item.done", output_index=self._at, item=item)

    @property
    def _part(self) -> dict[str, Any]:
        return self._items[-1]["content"][0]

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._items[-1]["id"], "output_index": self._at, "content_index": 0}

    def _event(self, type: str, **fields: Any) -> str:
        event = {"type": type, "sequence_number": self._sent, **fields}
        self._sent += 1
        return f"event: {type}\ndata: {json.dumps(event)}\n\n"

    def _response(
        self, model: str, usage: CompletionUsage | None = None, error: ApiError | None = None
    ) -> dict[str, Any]:
        body = self._body
        status = "in_progress"
        if usage is not None:
            status = "incomplete" if self._finish_reason == "length" else "completed"
            for item in self._items:
                item["status"] = "completed" if item is not self._items[-1] else status
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": "failed" if error else status,
            "completed_at": time.time() if status == "completed" else None,
            "error": {"code": "server_error", "message": error.message} if error else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": model,
            "output": self._items if usage is not None or error else [],
            "usage": _usage(usage) if usage else None,
            "instructions": body.instructions,
            "metadata": body.metadata or {},
            "temperature": 0.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "max_output_tokens": body.max_output_tokens,
            "text": (body.text and body.text.model_dump(exclude_none=True)) or {"format": {"type": "text"}},
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "top_logprobs": body.top_logprobs or 0,
            "truncation": "disabled",
            "background": False,
            "store": False,
            "previous_response_id": None,
        }


def _message(text: str, logprobs: list[ChatCompletionTokenLogprob] | None, status: str = "completed") -> dict[str, Any]:
    tokens = None if logprobs is None else [_token(token) for token in logprobs]
    content = [_output_text(text, tokens)]
    item_id = f"msg_{uuid.uuid4().hex}"
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _output_text(text: str, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def _function_call(call_id: str, name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    item_id = f"fc_{uuid.uuid4().hex}"
    call = {"call_id": call_id, "name": name, "arguments": arguments}
    return {"id": item_id, "type": "function_call", "status": status, **call}


def _token(token: ChatCompletionTokenLogprob) -> dict[str, Any]:
    top = [{"token": t.token, "bytes": t.bytes or [], "logprob": t.logprob} for t in token.top_logprobs]
    return {"token": token.token, "bytes": token.bytes or [], "logprob": token.logprob, "top_logprobs": top}


def _usage(usage: CompletionUsage) -> dict[str, Any]:
    cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
