"""The HTTP application: OpenAI's chat completions over the local engine.

Everything a stranger controls passes `RequestGuardMiddleware` first, and images pass `assistant.images`; what is here
is only the API.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from openai.types import Model
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fourfold.assistant.refine.memory import Memory
from fourfold.prompts.errors import UserError
from fourfold.serving.api.chat_response import ChatResponse, encode
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.correction_memory import CorrectionMemoryMiddleware
from fourfold.serving.api.errors import ApiError, answer_errors_in_json, as_api_error
from fourfold.serving.api.keys import KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.metrics import Metrics
from fourfold.serving.api.remote_images import RemoteImages
from fourfold.serving.api.request_guard import RequestGuardMiddleware
from fourfold.serving.api.request_tracker import Answer, Answers, unless_gone
from fourfold.serving.engine.adapter_files import check_adapter_files
from fourfold.serving.engine.engine import Engine


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


class ModelList(BaseModel):
    """The base model and its adapters."""

    object: str = "list"
    data: list[dict[str, Any]]


class Health(BaseModel):
    """Whether requests are served."""

    status: str


class AdapterName(BaseModel):
    """An adapter by name."""

    model_config = ConfigDict(strict=True)
    lora_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")


class AdapterPath(AdapterName):
    """An adapter by name and by its directory on the server."""

    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool = Field(False, description="replace the adapter that has this name")


def create_app(
    engine: Engine,
    *,
    keys: KeyRing,
    limits: ServerLimits,
    remote: RemoteImages | None = None,
    local_names_only: bool = False,
    memory: Memory | None = None,
) -> FastAPI:
    """The application over a loaded engine.

    Args:
        engine: Answers; stays the caller's to close.
        keys: API keys; an empty ring lets everybody in, except to change adapters.
        limits: Caps.
        remote: Fetches images by URL; None for data URIs only.
        local_names_only: See `RequestGuardMiddleware`.
        memory: Corrections that the model is reminded of, see `CorrectionMemoryMiddleware`; None for none.

    Returns:
        An ASGI application, with its `Answers` at `app.state.answers`.
    """
    refusals: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": ErrorBody, "description": "Refused; the message says what to change"},
        503: {"model": ErrorBody, "description": "Shutting down"},
    }
    # Not PlainTextResponse, whose media type FastAPI would document for the errors as well.
    plain: dict[str, Any] = {"response_class": Response, "responses": {200: {"content": {"text/plain": {}}}}}
    app = FastAPI(
        title="Fourfold",
        summary="OpenAI-compatible chat about images",
        # Its pages load scripts from a CDN; the schema itself is enough.
        docs_url=None,
        redoc_url=None,
        responses=refusals,
    )
    metrics = Metrics(
        gauges={
            ("fourfold_requests_waiting", "Answers waiting for a place in the batch"): lambda: engine.stats.waiting,
            ("fourfold_requests_running", "Answers being made"): lambda: engine.stats.running,
        },
        counters={
            ("fourfold_engine_steps", "Forward passes of the language model"): lambda: engine.stats.steps,
            ("fourfold_images_encoded", "Images the vision tower has read"): lambda: engine.stats.images_encoded,
            ("fourfold_images_reused", "Images found in the feature cache"): lambda: engine.stats.images_reused,
            ("fourfold_answers_cancelled", "Answers whose client left"): lambda: engine.stats.cancelled,
            ("fourfold_answers_failed", "Answers that ended in an error"): lambda: engine.stats.failed,
        },
    )
    answers = Answers(engine, limits, metrics, remote)
    app.state.answers = answers
    # Changing adapters waits for the engine's thread and must not hold up the decoding of images.
    changes = ThreadPoolExecutor(1, thread_name_prefix="adapters")
    began = int(time.time())

    def adapter_of(model: str | None) -> str | None:
        if model is None or model == engine.model_name:
            return None
        if any(adapter.name == model for adapter in engine.adapters):
            return model
        names = ", ".join([engine.model_name, *(adapter.name for adapter in engine.adapters)])
        raise ApiError(404, f"no such model; there are: {names}", param="model", code="model_not_found")

    def model_cards() -> list[dict[str, Any]]:
        base = Model(id=engine.model_name, created=began, object="model", owned_by="fourfold").model_dump(
            exclude_unset=True
        )
        cards = [{**base, "max_model_len": engine.context_length}]
        cards += [{**base, "id": adapter.name, "parent": engine.model_name} for adapter in engine.adapters]
        return cards

    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        dependencies=[Depends(_require_json)],
        responses={200: {"content": {"text/event-stream": {"schema": {"description": "with stream: true"}}}}},
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation, whole or streamed."""
        body.check_served(limits)
        adapter = adapter_of(body.model)
        if (
            body.text_length() > 64 * engine.context_length
        ):  # words take about 4 characters a token: spare the tokenizer
            message = f"the text is far longer than the {engine.context_length} tokens that the model reads"
            raise ApiError(400, message, param="messages", code="context_length_exceeded")
        response = ChatResponse(body.model or engine.model_name)
        answer = await unless_gone(_disconnected(request), answers.begin(body, adapter))
        if answer is None:
            return Response(status_code=400)  # nobody reads it
        if body.stream:
            return _EventStream(_events(answers, answer, response, body), answers, answer)
        try:
            finished = await unless_gone(_disconnected(request), _whole(answer))
            if finished is None:
                return Response(status_code=400)
            answers.check_whole(answer)
            return Response(encode(response.whole(answer.finished())), media_type="application/json")
        finally:
            answers.end(answer)

    @app.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        """List the base model and the loaded adapters."""
        return ModelList(data=model_cards())

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of the models."""
        for card in model_cards():
            if card["id"] == name:
                return card
        raise ApiError(404, "no such model; see /v1/models", param="model", code="model_not_found")

    @app.post("/v1/load_lora_adapter", dependencies=[Depends(_require_json)], **plain)
    async def load_adapter(body: AdapterPath) -> Response:
        """Load a LoRA adapter from a directory of the server; running answers are not disturbed."""
        if body.lora_name == engine.model_name:
            raise ApiError(400, "that is the base model's name; choose another", param="lora_name")
        directory = _adapter_directory(body.lora_path)
        try:
            load = partial(engine.load_adapter, body.lora_name, directory, in_place=body.load_inplace)
            await asyncio.get_running_loop().run_in_executor(changes, load)
        except UserError as error:
            raise ApiError(400, str(error), param="lora_path") from None
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter", dependencies=[Depends(_require_json)], **plain)
    async def unload_adapter(body: AdapterName) -> Response:
        """Forget an adapter; answers that use it are finished with it."""
        try:
            await asyncio.get_running_loop().run_in_executor(changes, engine.unload_adapter, body.lora_name)
        except UserError as error:
            raise ApiError(404, str(error), param="lora_name", code="adapter_not_found") from None
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    @app.get("/health", response_model=Health)
    async def health() -> Health:
        """Whether this server takes requests."""
        if answers.closing:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        return Health(status="ok")

    @app.get("/metrics", **plain)
    async def metrics_page() -> Response:
        """Prometheus metrics."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    answer_errors_in_json(app)
    routes = [route for route in app.openapi()["paths"] if "{" not in route]
    if memory is not None:
        app.add_middleware(CorrectionMemoryMiddleware, memory=memory)
    app.add_middleware(
        RequestGuardMiddleware,
        keys=keys,
        limits=limits,
        metrics=metrics,
        routes=routes,
        local_names_only=local_names_only,
    )
    return app


class _EventStream(StreamingResponse):
    """Server-sent events that stop the answer when their reader leaves, even before the first one was sent."""

    def __init__(self, events: AsyncIterator[str], answers: Answers, answer: Answer) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._answers, self._answer = answers, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.end(self._answer)


async def _events(answers: Answers, answer: Answer, response: ChatResponse, body: ChatRequest) -> AsyncIterator[str]:
    for index in range(body.choices):
        yield _event(encode(response.opening(index)))
    try:
        async for index, delta in answer.pieces():
            answers.check_whole(answer)
            if delta.text or delta.finish_reason or (body.logprobs and delta.token_ids):
                yield _event(encode(response.piece(index, delta, logprobs=bool(body.logprobs))))
    except Exception as error:
        # The status line is long gone; this is the form in which OpenAI's clients raise an error from a stream.
        yield _event(json.dumps(as_api_error(error).body))
        return
    if body.wants_usage:
        yield _event(encode(response.closing(answer.finished())))
    yield _event("[DONE]")


def _event(data: str) -> str:
    return f"data: {data}\n\n"


async def _whole(answer: Answer) -> bool:
    async for _ in answer.pieces():
        pass
    return True


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _require_json(request: Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send JSON, with the header Content-Type: application/json", code="not_json")
    if "content-encoding" in request.headers:
        raise ApiError(415, "send the body without Content-Encoding", code="compressed_body")


def _adapter_directory(text: str) -> Path:
    try:
        directory = Path(text)
        check_adapter_files(directory)
    except UserError:
        files = "adapter_config.json and adapter_model.safetensors"
        raise ApiError(400, f"lora_path must be a directory of this server with {files}", param="lora_path") from None
    except (OSError, ValueError):  # a NUL byte, a name too long
        raise ApiError(400, "lora_path is not a path", param="lora_path") from None
    return directory
