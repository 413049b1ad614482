"""The same front door for vLLM's own server as for ours: vLLM loads this class by its option `--middleware`.

vLLM asks for a key only under /v1 and a few other prefixes. Whatever it serves beside them, it serves to everybody:
/metrics and /tokenize, /pause and /scale_elastic_ep, SageMaker's /invocations (a second way to generate) and more
with every release. Hence a list of what may be reached, not of what may not.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fourfold.serving.api.cors import cors_options
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.keys import Key, KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.metrics import Metrics
from fourfold.serving.api.request_guard import RequestGuardMiddleware

SETTINGS_VARIABLE = "FOURFOLD_VLLM_GATE"
ROUTES = frozenset(
    {
        "/detokenize",
        "/health",
        "/live",
        "/metrics",
        "/ready",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/load_lora_adapter",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/responses",
        "/v1/unload_lora_adapter",
    }
)
LOCAL_ROUTES = {
    "/v1/concepts": "what was shown once is looked for by the local engine only",
    "/v1/decisions": "vLLM cannot be asked here how likely given answers are; see logprobs of chat completions",
    "/v1/eyes": "pictures are looked at by the local engine only",
    "/v1/models/": "vLLM describes its models together; see /v1/models",
}
"""What our own server has beside these, by the beginnings of the paths, and why it is a 501 here."""


def settings(keys: KeyRing, *, local_names_only: bool, allowed_origins: Sequence[str] = ()) -> str:
    """What `VLLMGate` reads from the environment for its guard; it holds digests of keys, not keys."""
    ring = [asdict(key) | {"digest": key.digest.hex()} for key in keys.keys]
    return json.dumps({"keys": ring, "local_names_only": local_names_only, "allowed_origins": [*allowed_origins]})


class VLLMGate:
    """ASGI middleware: `RequestGuardMiddleware` before the routes in `ROUTES`, nothing behind any other path.

    Raises:
        KeyError: the environment holds no settings; without them nothing is let through, not even open routes.
    """

    def __init__(self, app: ASGIApp) -> None:
        values = json.loads(os.environ[SETTINGS_VARIABLE])
        ring = KeyRing(Key(**key | {"digest": bytes.fromhex(key["digest"])}) for key in values["keys"])
        self._app = app
        self._guard: ASGIApp = RequestGuardMiddleware(
            self._listed,
            keys=ring,
            limits=ServerLimits(),
            metrics=Metrics(),
            routes=ROUTES,
            local_names_only=values["local_names_only"],
        )
        if origins := values["allowed_origins"]:
            self._guard = CORSMiddleware(self._guard, **cors_options(origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "this server has no WebSocket routes"})
        else:
            await self._guard(scope, receive, send)

    async def _listed(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/live":  # the process that answers this, whatever its engine does
            await JSONResponse({"status": "ok"})(scope, receive, send)
            return
        if path == "/ready":
            scope = {**scope, "path": "/health", "raw_path": b"/health"}
        if scope["type"] == "http" and path not in ROUTES:
            for beginning, why in LOCAL_ROUTES.items():
                if path.startswith(beginning):
                    raise ApiError(501, f"{path} is not served by vLLM: {why}", code="not_implemented")
            raise ApiError(404, f"no such route; this server has {', '.join(sorted(ROUTES))}")
        await self._app(scope, receive, send)
