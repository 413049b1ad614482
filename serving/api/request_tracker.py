"""Between the event loop and the engine's threads: requests become answers, and people who leave stop theirs."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fourfold.assistant.images import isolated, isolated_process
from fourfold.assistant.refine.memory import CorrectionMemory, Recalled
from fourfold.prompts.errors import UserError
from fourfold.prompts.tools import spell_out_tools
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.intake import Conversation, read_messages
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.metrics import Metrics
from fourfold.serving.api.remote_images import RemoteImages
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.requests import Completion, Delta, EngineClosed, QueueFull, Request
from fourfold.serving.engine.sampling.structured_outputs import GrammarError
from fourfold.serving.engine.sequence import Sequence
from fourfold.serving.looking import EYES, Looked, Looking

log = logging.getLogger("fourfold.memory")

T = TypeVar("T")
_HASHING = 4
"""Times three bytes a pixel that comparing a picture with those of the memory takes."""


class InFlightRequest:
    """The choices of one request while they are made; at `deadline` (of `loop.time()`) what is there has to do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, choices: int, deadline: float) -> None:
        self.completions: list[Completion | None] = [None] * choices
        self.cancelled = False
        self.cut_short = False  # by the end of the server
        self.pixels = 0  # of decoded images that it holds
        self.remembered: str | None = None  # id of the correction that is its answer
        self.looked: Looked | None = None  # what the eyes made of it, where they were asked
        self.stopping = threading.Event()  # set with `cancelled`
        self._loop = loop
        self._deadline = deadline
        self._pieces: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue()
        self._sequences: list[Sequence] = []

    @property
    def prompt_tokens(self) -> int:
        return len(self._sequences[0].prompt.ids)

    def cancel(self) -> None:
        """Stop drawing; from any thread, any number of times."""
        self.cancelled = True
        self.stopping.set()
        for sequence in self._sequences:
            sequence.cancel()

    def submit(self, engine: Engine, choice: int, request: Request) -> None:
        """Have the engine make a choice.

        Raises:
            UserError, QueueFull, EngineClosed: as `Engine.submit`.
        """

        def deliver(piece: Delta | Exception) -> None:  # on the engine's own thread
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (choice, piece))

        self._sequences.append(engine.submit(request, deliver))
        if self.cancelled:  # the client left while the images were decoded
            self._sequences[-1].cancel()

    async def pieces(self) -> AsyncIterator[tuple[int, Delta]]:
        """Pieces of all choices as they come, each with its choice's number.

        Raises:
            Exception: What the engine failed with.
        """
        while any(completion is None for completion in self.completions):
            try:
                async with asyncio.timeout_at(None if self.cancelled else self._deadline):
                    index, piece = await self._pieces.get()
            except TimeoutError:
                self.cancel()
                continue
            if isinstance(piece, GrammarError):
                raise ApiError(400, str(piece), code="invalid_schema")
            if isinstance(piece, Exception):
                raise piece
            if piece.completion is not None:
                self.completions[index] = piece.completion
                if self.cut_short and piece.finish_reason == "cancelled":
                    raise ApiError(503, "the server shut down before the answer was ready", code="shutting_down")
            yield index, piece

    def finished(self) -> list[Completion]:
        """All completions, once `pieces` has ended."""
        return [completion for completion in self.completions if completion is not None]


class RequestTracker:
    """Prepares requests off the event loop and keeps track of the answers that are being made.

    Args:
        remote: Fetches images by URL; None for never.
        memory: Corrections whose answers are given again; None for none.
        looking: Looks at pictures for those who ask the model's name with `EYES`; None for nobody.
    """

    def __init__(
        self,
        engine: Engine,
        limits: ServerLimits,
        metrics: Metrics,
        remote: RemoteImages | None,
        memory: CorrectionMemory | None = None,
        looking: Looking | None = None,
    ) -> None:
        self._engine, self._limits, self.metrics = engine, limits, metrics
        self._remote, self._memory, self._looking = remote, memory, looking
        # As many as there are processes that decode.
        self._decoders = ThreadPoolExecutor(isolated_process.MOST, thread_name_prefix="decode")
        self._decoders.submit(isolated.warm)
        # Waiting for other people's servers must not hold up those who bring their images along.
        self._fetchers = ThreadPoolExecutor(4, thread_name_prefix="fetch")
        # Whoever looks waits for the model, too, often for a whole answer: as many as the engine answers at a time.
        self._lookers = ThreadPoolExecutor(16, thread_name_prefix="look")
        self._preparing = 0
        self._pixels = 0
        self._counting = threading.Lock()
        self._running: set[InFlightRequest] = set()
        self.closing = False

    async def begin(self, body: ChatRequest, adapter: str | None) -> InFlightRequest:
        """Decode images, build the prompt and queue it.

        Raises:
            ApiError: The request is refused: bad images, too long, or too many others wait.
        """
        in_flight = self._new_in_flight(body)
        try:
            await self._off_loop(body, partial(self._prepare, body, adapter, in_flight))
        except BaseException:
            self.end(in_flight)
            raise
        return in_flight

    async def prompt_tokens(self, body: ChatRequest) -> list[int]:
        """Tokens of a request's prompt; its images are read, counted and let go again.

        Raises:
            ApiError: as `begin`.
        """
        in_flight = self._new_in_flight(body)
        try:
            return await self._off_loop(body, partial(self._prompt_tokens, body, in_flight))
        finally:
            self.end(in_flight)

    async def read(self, body: ChatRequest) -> tuple[InFlightRequest, Conversation]:
        """Decode a request's images for somebody who answers it in another way, and ends it.

        Raises:
            ApiError: as `begin`.
        """
        in_flight = self._new_in_flight(body)
        try:
            return in_flight, await self._off_loop(body, partial(self._read, body, in_flight))
        except BaseException:
            self.end(in_flight)
            raise

    def _new_in_flight(self, body: ChatRequest) -> InFlightRequest:
        if self.closing:
            raise shutting_down()
        if self._preparing >= self._limits.preparing:
            raise busy()
        loop = asyncio.get_running_loop()
        in_flight = InFlightRequest(loop, body.choices, loop.time() + self._limits.request_seconds)
        self._running.add(in_flight)
        return in_flight

    async def _off_loop(self, body: ChatRequest, prepare: Callable[[], T]) -> T:
        self._preparing += 1
        threads = self._fetchers if self._remote and body.has_remote_images() else self._decoders
        if self._looks(body):
            threads = self._lookers
        work = asyncio.get_running_loop().run_in_executor(threads, prepare)
        # Even when nobody waits for it any more, the thread is busy until it is done.
        work.add_done_callback(self._prepared)
        return await asyncio.shield(work)

    def end(self, in_flight: InFlightRequest) -> None:
        """Count what is finished, stop what is not."""
        in_flight.cancel()
        if in_flight in self._running:
            self._running.discard(in_flight)
            self._hold(in_flight, 0)
            for completion in in_flight.finished():
                self.metrics.count(completion)

    def close(self) -> None:
        self.closing = True

    def end_all(self) -> None:
        for in_flight in self._running:
            in_flight.cut_short = True
            in_flight.cancel()

    def _prepared(self, work: "asyncio.Future[Any]") -> None:
        self._preparing -= 1
        if not work.cancelled():
            work.exception()  # taken note of, or asyncio complains where the client left before the refusal

    def _prepare(self, body: ChatRequest, adapter: str | None, in_flight: InFlightRequest) -> None:
        conversation = self._read(body, in_flight)
        self._check_tokens(body)
        forced = body.forced_answer
        recalls = forced is None and body.memory is not False and body.free
        if recalls and (recalled := self._recall(conversation, in_flight)):
            forced, in_flight.remembered = recalled.answer, recalled.id
        try:
            if self._looking is not None and self._looks(body) and body.free:
                first = self._request(body, conversation, 0, adapter, forced)
                in_flight.looked = self._looking.look(first, in_flight.stopping)
                forced = in_flight.looked.request.forced_answer
            for choice in range(body.choices):
                in_flight.submit(self._engine, choice, self._request(body, conversation, choice, adapter, forced))
        except QueueFull:
            in_flight.cancel()
            raise busy() from None
        except EngineClosed:
            raise shutting_down() from None
        except GrammarError as error:
            place = body.form[0] if body.form else None
            raise ApiError(400, f"{place}: {error}", param=place, code="invalid_schema") from None
        except UserError as error:
            if adapter is not None and all(known.name != adapter for known in self._engine.adapters):
                raise ApiError(404, str(error), param="model", code="model_not_found") from None
            # Everything else that the engine could find wrong was checked before.
            raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from None

    def _request(
        self, body: ChatRequest, conversation: Conversation, choice: int, adapter: str | None, forced: str | None = None
    ) -> Request:
        """What the engine is asked for one of the choices; tools in words where its template has none for them."""
        messages, tools = conversation.messages, body.tool_use.tools
        if not self._engine.declares_tools:
            messages, tools = spell_out_tools(messages, tools), []
        return Request(
            messages,
            body.sampling(choice, self._limits),
            adapter,
            body.template(),
            forced,
            tools=tools,
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final_message=bool(body.continue_final_message),
        )

    def _check_tokens(self, body: ChatRequest) -> None:
        for field, tokens in (("logit_bias", map(int, body.logit_bias or ())), ("stop_token_ids", body.stop_token_ids)):
            try:
                self._engine.check_tokens(tokens or ())
            except UserError as error:
                raise ApiError(400, f"{field}: {error}", param=field, code="invalid_value") from None

    def _looks(self, body: ChatRequest) -> bool:
        return self._looking is not None and (body.model or "").endswith(EYES)

    def _prompt_tokens(self, body: ChatRequest, in_flight: InFlightRequest) -> list[int]:
        conversation = self._read(body, in_flight)
        try:
            return self._engine.prompt_tokens(self._request(body, conversation, 0, None))
        except UserError as error:
            raise ApiError(400, str(error), param="messages") from None

    def _read(self, body: ChatRequest, in_flight: InFlightRequest) -> Conversation:
        if in_flight.cancelled:
            raise shutting_down()
        began = time.perf_counter()
        conversation = read_messages(body, self._limits, self._remote, self._engine.image_size)
        self.metrics.stages.labels("decode_image").observe(time.perf_counter() - began)
        self._hold(in_flight, conversation.pixels)
        return conversation

    def _recall(self, conversation: Conversation, in_flight: InFlightRequest) -> Recalled | None:
        """What was corrected about this question; a memory that fails is no reason not to answer."""
        if self._memory is None or conversation.subject is None:
            return None
        # It may decode the image once more, in full: the model's own copy of a large one is a smaller one.
        self._hold(in_flight, conversation.pixels + _HASHING * conversation.subject_pixels)
        try:
            return self._memory.recall(conversation.subject, conversation.question)
        except UserError as error:
            log.warning("nothing could be remembered: %s", error)
            return None
        finally:
            self._hold(in_flight, conversation.pixels)

    def _hold(self, in_flight: InFlightRequest, pixels: int) -> None:
        """Count the decoded pixels that an answer holds from now on.

        Raises:
            ApiError: All answers together would hold too many.
        """
        with self._counting:
            held = self._pixels - in_flight.pixels + pixels
            if pixels and (held > self._limits.decoded_pixels or in_flight.cancelled):
                raise busy()
            self._pixels, in_flight.pixels = held, pixels


async def unless_gone(disconnected: Coroutine[Any, Any, None], wanted: Coroutine[Any, Any, T]) -> T | None:
    """The result of `wanted`, or None when `disconnected` ends first; the other is cancelled."""
    leaving, working = asyncio.ensure_future(disconnected), asyncio.ensure_future(wanted)
    try:
        await asyncio.wait((leaving, working), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()


def busy() -> ApiError:
    """The refusal of what finds no room."""
    return ApiError(429, "too many requests wait already; try again", code="queue_full", headers={"retry-after": "2"})


def shutting_down() -> ApiError:
    """The refusal of what comes, or is not ready, at the end."""
    return ApiError(503, "the server is shutting down", code="shutting_down", headers={"retry-after": "10"})
