"""The HTTP application: OpenAI's chat completions over the local engine.

Everything a stranger controls passes `RequestGuardMiddleware` first, and images pass `assistant.images`; what is here
is only the API.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from openai.types.chat import ChatCompletion
from openai.types.shared import ErrorObject
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fourfold.assistant.refine.memory import REMEMBERED_HEADER, CorrectionMemory
from fourfold.prompts.errors import UserError
from fourfold.serving.api.chat_response import ChatResponse, encode
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError, answer_errors_in_json, as_api_error
from fourfold.serving.api.keys import KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.metrics import Metrics
from fourfold.serving.api.remote_images import RemoteImages
from fourfold.serving.api.request_guard import RequestGuardMiddleware
from fourfold.serving.api.request_tracker import InFlightRequest, RequestTracker, unless_gone
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.lora_manager import check_adapter_files

"""Holds the id of the correction whose answer was given; the body stays what OpenAI's clients expect."""


class ErrorBody(BaseModel):
    error: ErrorObject


class ModelList(BaseModel):
    object: str = "list"
    data: list[dict[str, Any]]


class Health(BaseModel):
    status: str


class AdapterName(BaseModel):
    model_config = ConfigDict(strict=True)
    lora_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")


class AdapterPath(AdapterName):
    lora_path: str = Field(min_length=1, max_length=4096, description="its directory on the server")
    load_inplace: bool = Field(False, description="replace the adapter that has this name")


def create_app(
    engine: Engine,
    *,
    keys: KeyRing,
    limits: ServerLimits,
    remote: RemoteImages | None = None,
    local_names_only: bool = False,
    memory: CorrectionMemory | None = None,
) -> FastAPI:
    """The application over a loaded engine.

    Args:
        engine: Stays the caller's to close.
        keys: An empty ring lets everybody in, except to change adapters.
        remote: Fetches images by URL; None for data URIs only.
        local_names_only: See `RequestGuardMiddleware`.
        memory: Corrections whose answers are given again to the same question about the same picture; None for none.

    Returns:
        An ASGI application, with its `RequestTracker` at `app.state.tracker`.
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
    metrics = Metrics(lambda: engine.stats)
    tracker = RequestTracker(engine, limits, metrics, remote, memory)
    app.state.tracker = tracker
    # Changing adapters waits for the engine's thread and must not hold up the decoding of images.
    changes = ThreadPoolExecutor(1, thread_name_prefix="adapters")
    began = int(time.time())

    def adapter_of(model: str | None) -> str | None:
        names = [engine.model_name, *(adapter.name for adapter in engine.adapters)]
        if model is not None and model not in names:
            message = f"no such model; there are: {', '.join(names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return None if model == engine.model_name else model

    def model_cards() -> list[dict[str, Any]]:
        base = {"id": engine.model_name, "created": began, "object": "model", "owned_by": "fourfold"}
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
        # Words take about 4 characters a token: spare the tokenizer.
        if body.text_length() > 64 * engine.context_length:
            message = f"the text is far longer than the {engine.context_length} tokens that the model reads"
            raise ApiError(400, message, param="messages", code="context_length_exceeded")
        response = ChatResponse(body.model or engine.model_name)
        in_flight = await unless_gone(_disconnected(request), tracker.begin(body, adapter))
        if in_flight is None:
            return Response(status_code=400)  # nobody reads it
        headers = {REMEMBERED_HEADER: in_flight.remembered} if in_flight.remembered else {}
        if body.stream:
            return _EventStream(_events(in_flight, response, body), headers, partial(tracker.end, in_flight))
        try:
            finished = await unless_gone(_disconnected(request), _whole(in_flight))
            if finished is None:
                return Response(status_code=400)
            whole = encode(response.whole(in_flight.finished()))
            return Response(whole, media_type="application/json", headers=headers)
        finally:
            tracker.end(in_flight)

    @app.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        """List the base model and the loaded adapters."""
        return ModelList(data=model_cards())

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of the models."""
        adapter_of(name)  # refuses what there is not
        return next(card for card in model_cards() if card["id"] == name)

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
        if tracker.closing:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        return Health(status="ok")

    @app.get("/metrics", **plain)
    async def metrics_page() -> Response:
        """Prometheus metrics."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    answer_errors_in_json(app)
    routes = [route for route in app.openapi()["paths"] if "{" not in route]
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
    """Server-sent events, and what to do when their reader leaves, even before the first one was sent."""

    def __init__(self, events: AsyncIterator[str], headers: dict[str, str], on_end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"x-accel-buffering": "no", **headers})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _events(in_flight: InFlightRequest, response: ChatResponse, body: ChatRequest) -> AsyncIterator[str]:
    for index in range(body.choices):
        yield _event(encode(response.opening(index)))
    try:
        async for index, delta in in_flight.pieces():
            if delta.text or delta.finish_reason or (body.logprobs and delta.token_ids):
                yield _event(encode(response.piece(index, delta, logprobs=bool(body.logprobs))))
    except Exception as error:
        # The status line is long gone; this is the form in which OpenAI's clients raise an error from a stream.
        yield _event(json.dumps(as_api_error(error).body))
        return
    if body.wants_usage:
        yield _event(encode(response.closing(in_flight.finished())))
    yield _event("[DONE]")


def _event(data: str) -> str:
    return f"data: {data}\n\n"


async def _whole(in_flight: InFlightRequest) -> bool:
    async for _ in in_flight.pieces():
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
        check_adapter_files(Path(text))
    except UserError:
        files = "adapter_config.json and adapter_model.safetensors"
        raise ApiError(400, f"lora_path must be a directory of this server with {files}", param="lora_path") from None
    except (OSError, ValueError):  # a NUL byte, a name too long
        raise ApiError(400, "lora_path is not a path", param="lora_path") from None
    return Path(text)
