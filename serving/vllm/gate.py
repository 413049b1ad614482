"""The same front door for vLLM's own server as for ours: vLLM loads this class by its option `--middleware`.

vLLM asks for a key only under /v1 and a few other prefixes. Whatever it serves beside them, it serves to everybody:
/metrics and /tokenize, /pause and /scale_elastic_ep, SageMaker's /invocations (a second way to generate) and more
with every release. Hence a list of what may be reached, not of what may not.
"""

import json
import os
from dataclasses import asdict

from starlette.types import ASGIApp, Receive, Scope, Send

from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.keys import Key, KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.metrics import Metrics
from fourfold.serving.api.request_guard import RequestGuardMiddleware

SETTINGS_VARIABLE = "FOURFOLD_VLLM_GATE"
ROUTES = frozenset(
    {
        "/health",
        "/metrics",
        "/v1/chat/completions",
        "/v1/load_lora_adapter",
        "/v1/models",
        "/v1/unload_lora_adapter",
    }
)


def settings(keys: KeyRing, *, local_names_only: bool) -> str:
    """What `VLLMGate` reads from the environment for its guard; it holds digests of keys, not keys."""
    ring = [asdict(key) | {"digest": key.digest.hex()} for key in keys.keys]
    return json.dumps({"keys": ring, "local_names_only": local_names_only})


class VLLMGate:
    """ASGI middleware: `RequestGuardMiddleware` before the routes in `ROUTES`, nothing behind any other path.

    Raises:
        KeyError: the environment holds no settings; without them nothing is let through, not even open routes.
    """

    def __init__(self, app: ASGIApp) -> None:
        values = json.loads(os.environ[SETTINGS_VARIABLE])
        ring = KeyRing(Key(**key | {"digest": bytes.fromhex(key["digest"])}) for key in values["keys"])
        self._app = app
        self._guard = RequestGuardMiddleware(
            self._listed,
            keys=ring,
            limits=ServerLimits(),
            metrics=Metrics(),
            routes=ROUTES,
            local_names_only=values["local_names_only"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "this server has no WebSocket routes"})
        else:
            await self._guard(scope, receive, send)

    async def _listed(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in ROUTES:
            raise ApiError(404, "no such route; this server has /v1/chat/completions and /v1/models")
        await self._app(scope, receive, send)
