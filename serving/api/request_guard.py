"""What every HTTP request passes before the application sees it: host, key, rate, and a body of bounded size and time.

Plain ASGI, because refusing has to happen before a body is read, and reading has to stop in the middle.
"""

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import Iterable
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.keys import Key, KeyRing, RateLimiter
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.metrics import Metrics

log = logging.getLogger("fourfold.http")

OPEN_ROUTES = frozenset({"/health", "/live", "/ready"})
ADMIN_ROUTES = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
ADMIN_PREFIX = "/v1/concepts"  # what a server was shown is its owner's
# What may stand in a log line and a header; a client's own id is kept, so that both sides can look for it.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class RequestGuardMiddleware:
    """Guards an ASGI application.

    Args:
        keys: An empty ring lets everybody in, except to the admin routes.
        routes: Paths counted by name; all others are counted together.
        local_names_only: Refuse a Host header other than this machine's. Without keys, a web page that makes its own
            name point to 127.0.0.1 could otherwise talk to this server through its visitor's browser.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        limits: ServerLimits,
        metrics: Metrics,
        routes: Iterable[str],
        local_names_only: bool,
    ) -> None:
        self._app, self._keys, self._limits, self._metrics = app, keys, limits, metrics
        self._routes = frozenset(routes)
        self._local_names_only = local_names_only
        self._rates = RateLimiter()
        self._pending_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id  # the latter is Anthropic's
                headers["x-content-type-options"] = "nosniff"
                headers.setdefault("cache-control", "no-store")
            await send(message)

        self._metrics.in_flight.inc()
        key: Key | None = None
        try:
            key = self._admit(scope)
            if scope["method"] in ("POST", "PATCH"):
                await self._with_body(scope, receive, send_marked)
            else:
                # A body that is never read would keep the connection open as long as its sender likes.
                unread = {"content-length", "transfer-encoding"}.intersection(Headers(scope=scope).keys())
                # HEAD is GET to the application; its server leaves the body out. Probes of proxies ask so.
                asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(asked, receive, partial(_send_and_close, send_marked) if unread else send_marked)
        except ApiError as error:
            # The body may still be on its way: the connection cannot be used again.
            error.headers.setdefault("connection", "close")
            await error.response(scope["path"])(scope, receive, send_marked)
        except Exception:
            status = 500  # answered further out
            raise
        finally:
            self._metrics.in_flight.dec()
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.requests.labels(route, str(status or "none")).inc()
            took, name = 1000 * (time.monotonic() - began), key.name if key else "-"
            log.info("%s %s %s %d %.0f ms key=%s", request_id, scope["method"], route, status, took, name)

    def _admit(self, scope: Scope) -> Key | None:
        headers, path = Headers(scope=scope), scope["path"]
        if self._local_names_only and _host_name(headers.get("host", "")) not in _LOCAL_NAMES:
            message = "this server answers only to localhost; start it with an API key to use another name"
            raise ApiError(403, message, code="host_not_allowed")
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy may see the end of the body elsewhere, and what is behind it as another request (RFC 9112, 6.1).
            raise ApiError(400, "the body has two lengths: leave out content-length or transfer-encoding")
        if path in OPEN_ROUTES:
            return None
        key = None
        if self._keys:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer":
                token = headers.get("x-api-key", "")  # as Anthropic's clients send it
            key = self._keys.find(token.strip())
            if key is None:
                message = "no valid API key; send it as: Authorization: Bearer KEY"
                raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        if (path in ADMIN_ROUTES or path.startswith(ADMIN_PREFIX)) and not (key and key.admin):
            what = "concepts can be seen and changed" if path.startswith(ADMIN_PREFIX) else "adapters can be changed"
            raise ApiError(403, f"{what} with an admin key only", code="admin_key_required")
        if key and scope["method"] == "POST" and (wait := self._rates.spend(key)):
            message = f"this key's {key.per_minute} requests a minute are used up; try again later"
            raise ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(math.ceil(wait))})
        return key

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, then call the application with it. Its size counts until the answer is sent."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                complete = await self._read(receive, body)
                self._check_values(body)
        except (TimeoutError, ApiError) as error:
            self._pending_bytes -= len(body)
            if isinstance(error, ApiError):
                raise
            message = f"the body did not arrive within {self._limits.body_seconds:g} seconds"
            raise ApiError(408, message, code="body_timeout") from None
        size = len(body)
        replayed: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]
        del body

        async def receive_again() -> Message:
            return replayed.pop() if replayed else await receive()

        try:
            if complete:
                async with asyncio.timeout(self._limits.request_seconds + 60) as patience:
                    await self._app(scope, receive_again, send)
        except TimeoutError:
            if not patience.expired():
                raise
            log.warning("%s given up: the client does not read its answer", scope["state"]["request_id"])
        finally:
            self._pending_bytes -= size

    def _check_values(self, body: bytearray) -> None:
        """Counted in the bytes, before anything is made of them; pictures, in base64, have none of these signs."""
        objects, values = body.count(b"{") + body.count(b"["), body.count(b",")
        if objects > self._limits.body_objects or values > self._limits.body_values:
            message = (
                f"the body has more than {self._limits.body_objects:,} objects and lists or "
                f"{self._limits.body_values:,} values; send less at once"
            )
            raise ApiError(413, message, code="request_too_large")

    async def _read(self, receive: Receive, body: bytearray) -> bool:
        """Append the body to `body`; False when the client has gone."""
        limit, size, more = self._limits.body_bytes, 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return False
            block = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(block)
            if size <= limit:
                if self._pending_bytes + len(block) > self._limits.pending_bytes:
                    retry = {"retry-after": "2"}
                    raise ApiError(429, "too many uploads at once; try again", code="busy", headers=retry)
                self._pending_bytes += len(block)
                body += block
            elif size > 4 * limit:
                break
            # A little too large: read on without keeping anything, since many clients look for an answer only after
            # they have sent everything, and would report a broken connection instead of the reason.
        if size > limit:
            why = f"the body is larger than {limit / 2**20:g} MiB; send fewer or smaller images"
            raise ApiError(413, why, code="request_too_large")
        return True


async def _send_and_close(send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        MutableHeaders(scope=message)["connection"] = "close"
    await send(message)


def _host_name(host: str) -> str:
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
