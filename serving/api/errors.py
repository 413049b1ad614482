"""Errors in the shape that a route's clients read: OpenAI's `{"error": {message, ...}}` or Anthropic's."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fourfold.prompts.errors import UserError
from fourfold.serving.api.complaints import complaint

log = logging.getLogger("fourfold.http")

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = _TYPES | {404: "not_found_error", 413: "request_too_large", 503: "overloaded_error"}


class ApiError(Exception):
    """A request that is refused or cannot be served.

    Args:
        message: One line for the person who wrote the client: what was wrong and what to do. It must not repeat keys,
            prompts or image data.
        param: The field of the request that is at fault.
        code: A word that programs can test, such as `model_not_found`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def anthropic_body(self) -> dict[str, Any]:
        kind = "api_error" if self.status >= 500 else "invalid_request_error"
        error = {**self.body["error"], "type": _ANTHROPIC_TYPES.get(self.status, kind)}
        return {"type": "error", "error": error}

    def response(self, path: str = "") -> JSONResponse:
        """As the clients of the route at `path` read it."""
        is_anthropic = path.startswith("/v1/messages")
        return JSONResponse(self.anthropic_body if is_anthropic else self.body, self.status, self.headers)


_INTERNAL = ApiError(500, "the server failed to answer; its log says why", code="internal_error")


def as_api_error(error: Exception) -> ApiError:
    """Any exception as what the client is told; what is the server's own fault goes to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):  # ours have no depth of their own: a schema or a value of the request has
        return ApiError(400, "a value of the request is nested too deeply; make it flatter", code="invalid_value")
    log.error("an answer failed", exc_info=error)
    return _INTERNAL


def answer_errors_in_json(app: FastAPI) -> None:
    """Make every error of an application leave in this shape."""
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(RecursionError, _refused)
    app.add_exception_handler(Exception, _refused)


def require_json(request: Request) -> None:
    """A dependency of routes with a body.

    Raises:
        ApiError: the body is announced as something else than JSON, or as compressed.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send JSON, with the header Content-Type: application/json", code="not_json")
    if "content-encoding" in request.headers:
        raise ApiError(415, "send the body without Content-Encoding", code="compressed_body")


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError | RecursionError):
        return as_api_error(error).response(request.url.path)
    return _INTERNAL.response(request.url.path)  # the server itself logs what it failed on


async def _invalid(request: Request, error: Exception) -> Response:
    """Pydantic's first complaint in our words, without the value: it may be an image or a prompt."""
    assert isinstance(error, RequestValidationError)
    path = request.url.path
    if "json" not in request.headers.get("content-type", ""):
        refusal = ApiError(415, "send JSON, with the header Content-Type: application/json", code="not_json")
        return refusal.response(path)
    return as_refusal(error.errors(), error.body).response(path)


def as_refusal(errors: Sequence[Any], body: Any) -> ApiError:
    """A 400 that names the field, from pydantic's errors about a request's body; their places begin with "body"."""
    # A value that fits no member of a union brings an error for each; the one that got furthest says most.
    first = max(errors, key=lambda found: (len(found["loc"]), not found["type"].endswith("_type")))
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    place = _place(first["loc"][1:], body, missing=first["type"] == "missing")
    message = complaint(first, place.rpartition(".")[2])
    return ApiError(
        400, f"{place}: {message}" if place else f"the body {message}", param=place or None, code="invalid_value"
    )


def _place(steps: Sequence[str | int], body: Any, *, missing: bool) -> str:
    """Where in the body an error is, in the client's words: without the names of union members that pydantic adds."""
    path = []
    for number, step in enumerate(steps, 1):
        if (isinstance(body, dict) and step in body) or (isinstance(body, list) and isinstance(step, int)):
            path.append(str(step))
            body = body[step]  # type: ignore[index]
        elif missing and number == len(steps):
            path.append(str(step))
    return ".".join(path)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        400: "the body is not valid JSON",  # FastAPI's word for what its parser chokes on
        404: "no such route; this server has /v1/chat/completions, /v1/responses, /v1/messages and /v1/models, and "
        "lists all in /openapi.json",
        405: "wrong HTTP method for this route",
    }
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response(request.url.path)
