"""POST /v1/chat/completions, OpenAI's: the API that all others are translated into."""

import json
from collections.abc import Iterator

from fastapi import APIRouter, Depends, Request
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.responses import Response

from fourfold.serving.api.answering import Answering
from fourfold.serving.api.chat_response import encode
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError, require_json


def chat_routes(answering: Answering) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        dependencies=[Depends(require_json)],
        responses={200: {"content": {"text/event-stream": {"schema": {"description": "with stream: true"}}}}},
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation, whole or streamed."""
        return await answering.answer(body, request, _ChatDialect(body.wants_usage))

    return router


class _ChatDialect:
    def __init__(self, usage: bool) -> None:
        self._usage = usage

    def whole(self, completion: ChatCompletion) -> str:
        return encode(completion)

    def opening(self, chunk: ChatCompletionChunk, prompt_tokens: int) -> Iterator[str]:
        yield _event(encode(chunk))

    def piece(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        yield _event(encode(chunk))

    def closing(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        if self._usage:
            yield _event(encode(chunk))
        yield _event("[DONE]")

    def failed(self, error: ApiError) -> Iterator[str]:
        # The form in which OpenAI's clients raise an error from a stream.
        yield _event(json.dumps(error.body))


def _event(data: str) -> str:
    return f"data: {data}\n\n"
