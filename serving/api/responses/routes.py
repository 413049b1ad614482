"""POST /v1/responses: a thin translation into chat completions and back."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from fourfold.serving.api.answering import Answering
from fourfold.serving.api.errors import require_json
from fourfold.serving.api.responses.answer import ResponsesDialect
from fourfold.serving.api.responses.request import ResponsesRequest, as_chat
from fourfold.serving.api.translation import in_words_of


def responses_routes(answering: Answering) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/responses",
        dependencies=[Depends(require_json)],
        responses={200: {"content": {"text/event-stream": {"schema": {"description": "with stream: true"}}}}},
    )
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer a conversation in the shape of OpenAI's Responses API, whole or streamed; nothing is kept."""
        chat, places = as_chat(body)
        with in_words_of(places):
            return await answering.answer(chat, request, ResponsesDialect(body))

    return router
