"""What an endpoint sends, brought into OpenAI's form at the door: other programs are sloppier than the protocol."""

import json
from typing import Any

import openai


def mended_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    """A piece of a stream in which every field that is read has its type; what makes no sense is left out."""
    choices = chunk.get("choices")
    first = (
        next((choice for choice in choices if isinstance(choice, dict)), None) if isinstance(choices, list) else None
    )
    kept = {name: value for name, value in chunk.items() if name not in ("choices", "usage")}
    usage = chunk.get("usage")
    kept["usage"] = usage if _is_usage(usage) else None
    if first is None:
        return {**kept, "choices": []}
    delta = first.get("delta") or first.get("message")
    delta = delta if isinstance(delta, dict) else {"content": delta if delta is not None else first.get("text")}
    reason = first.get("finish_reason")
    choice = {
        **first,
        "index": 0,
        "delta": _mended_message(delta),
        "finish_reason": reason if isinstance(reason, str) else None,
        "logprobs": None,
    }
    return {**kept, "choices": [choice]}


def _mended_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message, or a piece of one, of an assistant whose content is text.

    Calls of tools are left out: none were offered.
    """
    left_out = ("content", "role", "tool_calls", "function_call", "refusal", "audio")
    kept = {name: value for name, value in message.items() if name not in left_out}
    return {**kept, "role": "assistant", "content": _text(message.get("content")) or _text(message.get("refusal"))}


def as_events(body: bytes) -> bytes:
    """A whole chat completion as the stream that was asked for: one piece and its end.

    What is no completion stays as it is, so that an error says what it says.
    """
    try:
        told = json.loads(body)
    except ValueError:
        return body
    if not isinstance(told, dict) or not isinstance(told.get("choices"), list):
        return b"data: " + json.dumps(told).encode() + b"\n\n" if isinstance(told, dict) else body
    chunk = mended_chunk(told)
    for choice in chunk["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"  # it came whole
    return b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"


class Client(openai.DefaultHttpxClient):
    """An HTTP client that takes a whole reply where a stream was asked for."""

    def send(self, request: Any, **options: Any) -> Any:
        response = super().send(request, **options)
        if not _is_whole(request, response):
            return response
        return _streamed(response, response.read())


class AsyncClient(openai.DefaultAsyncHttpxClient):
    """The same for asyncio."""

    async def send(self, request: Any, **options: Any) -> Any:
        response = await super().send(request, **options)
        if not _is_whole(request, response):
            return response
        return _streamed(response, await response.aread())


def _is_whole(request: Any, response: Any) -> bool:
    """Whether a chat completion came whole though a stream was asked for."""
    return (
        response.status_code == 200
        and "json" in response.headers.get("content-type", "").split(";")[0]
        and request.url.path.endswith("/chat/completions")
        and b'"stream":true' in request.content.replace(b" ", b"")
    )


def _streamed(response: Any, body: bytes) -> Any:
    headers = {
        name: value
        for name, value in response.headers.items()
        if name not in ("content-length", "content-encoding", "transfer-encoding")
    }
    headers["content-type"] = "text/event-stream"
    return type(response)(200, headers=headers, content=as_events(body), request=response.request)


def _text(content: Any) -> str:
    """Content as text: a list of parts is joined, a number is written."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content"))
    return "" if content is None or isinstance(content, bool) else str(content)


def _is_usage(usage: Any) -> bool:
    """Whether tokens are counted in a way that can be added up."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return isinstance(usage, dict) and all(type(usage.get(name)) is int for name in names)
