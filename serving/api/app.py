"""The HTTP application over the local engine: its routes, and the doors before them.

Everything a stranger controls passes `RequestGuardMiddleware` first, and images pass `assistant.images`; what is here
is only the API.
"""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from openai.types.shared import ErrorObject
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from fourfold.assistant.checkpoints.card import MeasuredCard, read_card
from fourfold.assistant.refine.memory import CorrectionMemory
from fourfold.serving.api.adapters import PLAIN, adapter_routes
from fourfold.serving.api.answering import Answering
from fourfold.serving.api.chat import chat_routes
from fourfold.serving.api.concepts import concept_routes
from fourfold.serving.api.cors import cors_options
from fourfold.serving.api.decisions import decision_routes
from fourfold.serving.api.errors import answer_errors_in_json
from fourfold.serving.api.eyes import eyes_routes
from fourfold.serving.api.health import health_routes
from fourfold.serving.api.keys import KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.messages.routes import messages_routes
from fourfold.serving.api.metrics import Metrics
from fourfold.serving.api.remote_images import RemoteImages
from fourfold.serving.api.request_guard import RequestGuardMiddleware
from fourfold.serving.api.request_tracker import RequestTracker
from fourfold.serving.api.responses.routes import responses_routes
from fourfold.serving.api.tokenize import tokenize_routes
from fourfold.serving.engine.engine import Engine
from fourfold.serving.looking import EYES, Looking


class ErrorBody(BaseModel):
    error: ErrorObject


class ModelList(BaseModel):
    object: str = "list"
    data: list[dict[str, Any]]


def create_app(
    engine: Engine,
    *,
    keys: KeyRing,
    limits: ServerLimits,
    remote: RemoteImages | None = None,
    local_names_only: bool = False,
    memory: CorrectionMemory | None = None,
    allowed_origins: Sequence[str] = (),
    looking: Looking | None = None,
) -> FastAPI:
    """The application over a loaded engine.

    Args:
        engine: Stays the caller's to close.
        keys: An empty ring lets everybody in, except to change adapters.
        remote: Fetches images by URL; None for data URIs only.
        local_names_only: See `RequestGuardMiddleware`.
        memory: Corrections whose answers are given again to the same question about the same picture; None for none.
        looking: Offers the model once more, with eyes, under its name and `EYES`; None for the model alone.
        allowed_origins: Of web pages that may ask from a browser, see `cors_options`.

    Returns:
        An ASGI application, with its `RequestTracker` at `app.state.tracker`.
    """
    refusals: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": ErrorBody, "description": "Refused; the message says what to change"},
        503: {"model": ErrorBody, "description": "Shutting down"},
    }
    app = FastAPI(
        title="Fourfold",
        summary="OpenAI-compatible chat about images",
        # Its pages load scripts from a CDN; the schema itself is enough.
        docs_url=None,
        redoc_url=None,
        responses=refusals,
    )
    metrics = Metrics(lambda: engine.stats)
    tracker = RequestTracker(engine, limits, metrics, remote, memory, looking)
    app.state.tracker = tracker
    answering = Answering(engine, tracker, limits, eyes=looking is not None)
    began = int(time.time())
    measured = (read_card(engine.checkpoint) if engine.checkpoint else None) or MeasuredCard()

    def model_cards() -> list[dict[str, Any]]:
        base: dict[str, Any] = {
            "id": engine.model_name,
            "created": began,
            "object": "model",
            "owned_by": "fourfold",
            "max_model_len": engine.context_length,
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        }
        cards = [base]
        cards += [{**base, "id": adapter.name, "parent": engine.model_name} for adapter in engine.adapters]
        if looking is not None:
            cards += [{**card, "id": card["id"] + EYES, "parent": card["id"]} for card in cards]
        # What was measured holds for the model, not for what adapters make of it.
        said = {engine.model_name: measured.alone, engine.model_name + EYES: measured.eyes}
        return [{**card, "card": told.to_json()} if (told := said.get(card["id"])) else card for card in cards]

    @app.get("/v1/models", response_model=ModelList)
    async def models() -> ModelList:
        """List the base model and the loaded adapters."""
        return ModelList(data=model_cards())

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of the models."""
        answering.adapter_of(name)  # refuses what there is not
        return next(card for card in model_cards() if card["id"] == name)

    @app.get("/metrics", **PLAIN)
    async def metrics_page() -> Response:
        """Prometheus metrics."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    routers = [
        health_routes(tracker),
        chat_routes(answering),
        responses_routes(answering),
        messages_routes(answering),
        tokenize_routes(answering),
        decision_routes(answering, looking),
        adapter_routes(engine),
    ]
    if looking is not None:
        routers.append(eyes_routes(looking, tracker))
        if looking.concepts is not None:
            routers.append(concept_routes(looking.concepts, limits.image))
    for router in routers:
        app.include_router(router)
    answer_errors_in_json(app)
    # Of the routers: the application does not list what it includes, and to make its schema takes a tenth of a second.
    listed = [route for router in (app.router, *routers) for route in router.routes if isinstance(route, APIRoute)]
    app.add_middleware(
        RequestGuardMiddleware,
        keys=keys,
        limits=limits,
        metrics=metrics,
        routes=[route.path for route in listed if "{" not in route.path],
        local_names_only=local_names_only,
    )
    # Outermost, so that a refusal can be read by the page as well.
    if allowed_origins:
        app.add_middleware(CORSMiddleware, **cors_options(allowed_origins))
    return app
