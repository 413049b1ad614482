"""POST /tokenize and /detokenize, as vLLM has them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from fourfold.prompts.errors import UserError
from fourfold.serving.api.answering import Answering
from fourfold.serving.api.body import Body, Text
from fourfold.serving.api.chat_schema import ChatMessage, TemplateVariables
from fourfold.serving.api.errors import ApiError, require_json
from fourfold.serving.api.translation import chat_request

T = TypeVar("T")
_LONGEST = 1_000_000
"""Characters or tokens; a tokenizer takes about a second for so many."""
_OF_CHAT = {
    *("model", "messages", "add_generation_prompt", "continue_final_message", "tools", "chat_template_kwargs"),
}


class TokenizeRequest(Body):
    """Either a `prompt`, taken as it is, or `messages`, through the chat template."""

    model: Text | None = None
    prompt: Annotated[Text, Field(max_length=_LONGEST)] | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=2000, fail_fast=True)
    add_special_tokens: bool | None = Field(None, description="for a prompt, true by default; never for messages")
    add_generation_prompt: bool | None = Field(None, description="for messages, true by default")
    continue_final_message: bool | None = None
    tools: list[dict[str, Any]] | None = Field(
        None, max_length=128, description="for messages, where the template declares tools"
    )
    return_token_strs: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    model: Text | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(max_length=_LONGEST, fail_fast=True)


class DetokenizeResponse(BaseModel):
    prompt: str


def tokenize_routes(answering: Answering) -> APIRouter:
    router = APIRouter()
    engine = answering.engine
    thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    async def off_loop(work: Callable[[], T], param: str) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except UserError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from None

    @router.post("/tokenize", dependencies=[Depends(require_json)], response_model=TokenizeResponse)
    async def tokenize(body: TokenizeRequest) -> TokenizeResponse:
        """The tokens of a text, or of the prompt that a conversation becomes; an image counts its visual tokens."""
        answering.adapter_of(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "send either a prompt or messages", param="prompt", code="invalid_value")
        if body.messages is not None:
            if body.add_special_tokens:
                message = "the chat template adds the special tokens of messages; leave it out"
                raise ApiError(400, message, param="add_special_tokens", code="unsupported_parameter")
            fields = body.model_dump(include=_OF_CHAT, exclude_none=True)
            ids = await answering.prompt_tokens(chat_request(fields))
        else:
            text, special = body.prompt or "", body.add_special_tokens is not False
            ids = await off_loop(lambda: engine.tokenize(text, add_special_tokens=special), "prompt")
        names = await off_loop(lambda: engine.token_strings(ids), "prompt") if body.return_token_strs else None
        return TokenizeResponse(count=len(ids), max_model_len=engine.context_length, tokens=ids, token_strs=names)

    @router.post("/detokenize", dependencies=[Depends(require_json)], response_model=DetokenizeResponse)
    async def detokenize(body: DetokenizeRequest) -> DetokenizeResponse:
        """The text of tokens, special ones included."""
        answering.adapter_of(body.model)
        return DetokenizeResponse(prompt=await off_loop(lambda: engine.detokenize(body.tokens), "tokens"))

    return router
