"""POST /v1/messages and /v1/messages/count_tokens: a thin translation into chat completions and back."""

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from fourfold.serving.api.answering import Answering
from fourfold.serving.api.errors import require_json
from fourfold.serving.api.messages.answer import MessagesDialect
from fourfold.serving.api.messages.request import CountTokensRequest, MessagesRequest, as_chat
from fourfold.serving.api.translation import in_words_of


class MessageTokensCount(BaseModel):
    input_tokens: int


def messages_routes(answering: Answering) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/messages",
        dependencies=[Depends(require_json)],
        responses={200: {"content": {"text/event-stream": {"schema": {"description": "with stream: true"}}}}},
    )
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """Answer a conversation in the shape of Anthropic's Messages API, whole or streamed."""
        chat, places = as_chat(body)
        with in_words_of(places):
            return await answering.answer(chat, request, MessagesDialect())

    @router.post("/v1/messages/count_tokens", dependencies=[Depends(require_json)], response_model=MessageTokensCount)
    async def count_tokens(body: CountTokensRequest) -> MessageTokensCount:
        """How many tokens the prompt of a conversation has, images included; nothing is answered."""
        chat, places = as_chat(body)
        with in_words_of(places):
            return MessageTokensCount(input_tokens=len(await answering.prompt_tokens(chat)))

    return router
