"""From a chat request to its answer on the wire: the one path of all APIs that chat."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Protocol

from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fourfold.assistant.refine.memory import REMEMBERED_HEADER
from fourfold.serving.api.chat_response import ChatResponse
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError, as_api_error
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.request_tracker import InFlightRequest, RequestTracker, unless_gone
from fourfold.serving.engine.engine import Engine
from fourfold.serving.looking import EYES


class Dialect(Protocol):
    """How one API writes an answer down. Made anew for each answer, since a stream has a state."""

    def whole(self, completion: ChatCompletion) -> str:
        """The JSON of an answer that is not streamed."""

    def opening(self, chunk: ChatCompletionChunk, prompt_tokens: int) -> Iterator[str]:
        """Server-sent events for the first chunk of a choice."""

    def piece(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        """Server-sent events for a chunk of a choice."""

    def closing(self, chunk: ChatCompletionChunk) -> Iterator[str]:
        """Server-sent events for the last chunk, which has the usage and no choices."""

    def failed(self, error: ApiError) -> Iterator[str]:
        """Server-sent events for an error, when the status line is long gone."""


class Answering:
    """Answers requests that were translated into chat requests; also says how long their prompts are."""

    def __init__(self, engine: Engine, tracker: RequestTracker, limits: ServerLimits, *, eyes: bool = False) -> None:
        self.engine, self.tracker, self.limits, self.eyes = engine, tracker, limits, eyes

    def adapter_of(self, model: str | None) -> str | None:
        """The adapter that a model's name, with or without `EYES`, stands for; None for the engine's default.

        Raises:
            ApiError: there is no model of that name.
        """
        names = [self.engine.model_name, *(adapter.name for adapter in self.engine.adapters)]
        if self.eyes:
            names += [name + EYES for name in names]
        if model is not None and model not in names:
            message = f"no such model; there are: {', '.join(names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        plain = model.removesuffix(EYES) if model is not None else None
        return None if plain == self.engine.model_name else plain

    async def answer(self, body: ChatRequest, request: Request, dialect: Dialect) -> Response:
        """Answer whole or streamed, as `body.stream` says; a client that leaves stops its answer.

        Raises:
            ApiError: the request is refused.
        """
        adapter = self.checked(body)
        response = ChatResponse(body.model or self.engine.model_name, body.tool_use.reader)
        in_flight = await unless_gone(disconnected(request), self.tracker.begin(body, adapter))
        if in_flight is None:
            return Response(status_code=400)  # nobody reads it
        headers = {REMEMBERED_HEADER: in_flight.remembered} if in_flight.remembered else {}
        if body.stream:
            events = _events(in_flight, response, body, dialect)
            return _EventStream(events, headers, partial(self.tracker.end, in_flight))
        try:
            finished = await unless_gone(disconnected(request), _whole(in_flight))
            if finished is None:
                return Response(status_code=400)
            whole = dialect.whole(response.whole(in_flight.finished(), in_flight.looked))
            return Response(whole, media_type="application/json", headers=headers)
        finally:
            self.tracker.end(in_flight)

    async def prompt_tokens(self, body: ChatRequest) -> list[int]:
        """Tokens of the prompt that a request makes, its images' places included; they are checked as for an answer.

        Raises:
            ApiError: the request is refused.
        """
        self.checked(body)
        return await self.tracker.prompt_tokens(body)

    def checked(self, body: ChatRequest) -> str | None:
        """The adapter that is to answer a request.

        Raises:
            ApiError: the request asks for what is not served, or is hopelessly long.
        """
        body.check_served(self.limits)
        if body.tool_use.names and not body.tool_use.forced and not self.engine.declares_tools:
            message = (
                "this model's chat template declares no tools, so that it cannot choose one by itself; "
                "set tool_choice to required or name a function"
            )
            raise ApiError(400, message, param="tools", code="unsupported_parameter")
        adapter = self.adapter_of(body.model)
        # Words take about 4 characters a token: spare the tokenizer.
        if body.text_length() > 64 * self.engine.context_length:
            message = f"the text is far longer than the {self.engine.context_length} tokens that the model reads"
            raise ApiError(400, message, param="messages", code="context_length_exceeded")
        return adapter


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


async def _events(
    in_flight: InFlightRequest, response: ChatResponse, body: ChatRequest, dialect: Dialect
) -> AsyncIterator[str]:
    for index in range(body.choices):
        for event in dialect.opening(response.opening(index), in_flight.prompt_tokens):
            yield event
    try:
        async for index, delta in in_flight.pieces():
            if delta.text or delta.finish_reason or (body.logprobs and delta.token_ids):
                chunk = response.piece(index, delta, logprobs=bool(body.logprobs), looked=in_flight.looked)
                for event in dialect.piece(chunk) if chunk is not None else ():
                    yield event
    except Exception as error:
        for event in dialect.failed(as_api_error(error)):
            yield event
        return
    for event in dialect.closing(response.closing(in_flight.finished())):
        yield event


async def _whole(in_flight: InFlightRequest) -> bool:
    async for _ in in_flight.pieces():
        pass
    return True


async def disconnected(request: Request) -> None:
    """Ends when the client of a request has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
