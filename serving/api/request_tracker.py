"""Between the event loop and the engine's threads: requests become answers, and people who leave stop theirs."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fourfold.prompts.errors import UserError
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.intake import read_messages
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.metrics import Metrics
from fourfold.serving.api.remote_images import RemoteImages
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.requests import Completion, Delta, EngineClosed, QueueFull, Request
from fourfold.serving.engine.sequence import Generation

T = TypeVar("T")


class Answer:
    """The choices of one request while they are made.

    Args:
        loop: Where pieces are wanted.
        choices: How many.
        deadline: `loop.time()` at which what is there has to do.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, choices: int, deadline: float) -> None:
        self.completions: list[Completion | None] = [None] * choices
        self.cancelled = False
        self.pixels = 0  # of decoded images that it holds
        self._loop = loop
        self._deadline = deadline
        self._pieces: asyncio.Queue[tuple[int, Delta | Exception]] = asyncio.Queue()
        self._generations: list[Generation] = []

    def cancel(self) -> None:
        """Stop drawing; from any thread, any number of times."""
        self.cancelled = True
        for generation in self._generations:
            generation.cancel()

    def deliver_to(self, index: int) -> Callable[[Delta | Exception], None]:
        """What the engine calls, on its own thread, with the pieces of a choice."""

        def deliver(piece: Delta | Exception) -> None:
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

        return deliver

    def add(self, generation: Generation) -> None:
        """Take charge of a choice that the engine has accepted."""
        self._generations.append(generation)
        if self.cancelled:  # the client left while the images were decoded
            generation.cancel()

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
            if isinstance(piece, Exception):
                raise piece
            if piece.completion is not None:
                self.completions[index] = piece.completion
            yield index, piece

    def finished(self) -> list[Completion]:
        """All completions, once `pieces` has ended."""
        return [completion for completion in self.completions if completion is not None]


class Answers:
    """Prepares requests off the event loop and keeps track of the answers that are being made.

    Args:
        engine: Makes them.
        limits: Caps.
        metrics: Where stages and tokens are counted.
        remote: Fetches images by URL; None for never.
    """

    def __init__(self, engine: Engine, limits: ServerLimits, metrics: Metrics, remote: RemoteImages | None) -> None:
        self._engine, self._limits, self._metrics, self._remote = engine, limits, metrics, remote
        # Two threads decode: Pillow releases the interpreter lock, and more would hold more decoded pictures in memory.
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="decode")
        # Waiting for other people's servers must not hold up those who bring their images along.
        self._fetchers = ThreadPoolExecutor(4, thread_name_prefix="fetch")
        self._preparing = 0
        self._pixels = 0
        self._counting = threading.Lock()
        self._running: set[Answer] = set()
        self.closing = False

    async def begin(self, body: ChatRequest, adapter: str | None) -> Answer:
        """Decode images, build the prompt and queue it.

        Raises:
            ApiError: The request is refused: bad images, too long, or too many others wait.
        """
        if self.closing:
            raise _closing()
        if self._preparing >= self._limits.preparing:
            raise _busy()
        loop = asyncio.get_running_loop()
        answer = Answer(loop, body.choices, loop.time() + self._limits.request_seconds)
        self._running.add(answer)
        self._preparing += 1
        threads = self._fetchers if self._remote and body.has_remote_images() else self._decoders
        work = loop.run_in_executor(threads, self._prepare, body, adapter, answer)
        # Even when nobody waits for it any more, the thread is busy until it is done.
        work.add_done_callback(self._prepared)
        try:
            await asyncio.shield(work)
        except BaseException:
            self.end(answer)
            raise
        return answer

    def end(self, answer: Answer) -> None:
        """Count what is finished, stop what is not."""
        answer.cancel()
        if answer in self._running:
            self._running.discard(answer)
            self._hold(answer, 0)
            for completion in answer.finished():
                self._metrics.count(completion)

    def check_whole(self, answer: Answer) -> None:
        """Refuse to pass off as finished what the end of the server cut short.

        Raises:
            ApiError: That is what happened.
        """
        if self.closing and any(completion.finish_reason == "cancelled" for completion in answer.finished()):
            raise ApiError(503, "the server shut down before the answer was ready", code="shutting_down")

    def close(self) -> None:
        """Take no new requests."""
        self.closing = True

    def end_all(self) -> None:
        """Stop every answer at its next token."""
        for answer in self._running:
            answer.cancel()

    def _prepared(self, work: "asyncio.Future[None]") -> None:
        self._preparing -= 1
        if not work.cancelled():
            work.exception()  # taken note of, or asyncio complains where the client left before the refusal

    def _prepare(self, body: ChatRequest, adapter: str | None, answer: Answer) -> None:
        if answer.cancelled:
            raise _closing()
        began = time.perf_counter()
        messages = read_messages(body, self._limits, self._remote, self._engine.image_size)
        self._metrics.stages.labels("decode_image").observe(time.perf_counter() - began)
        self._hold(answer, _pixels(messages))
        try:
            for choice in range(body.choices):
                request = Request(
                    messages, body.sampling(choice, self._limits), adapter, body.template(), body.forced_answer
                )
                answer.add(self._engine.submit(request, answer.deliver_to(choice)))
        except QueueFull:
            answer.cancel()
            raise _busy() from None
        except EngineClosed:
            raise _closing() from None
        except UserError as error:
            if adapter is not None and all(known.name != adapter for known in self._engine.adapters):
                raise ApiError(404, str(error), param="model", code="model_not_found") from None
            # Everything else that the engine could find wrong was checked before.
            raise ApiError(400, str(error), param="messages", code="context_length_exceeded") from None

    def _hold(self, answer: Answer, pixels: int) -> None:
        """Count the decoded pixels that an answer holds from now on.

        Raises:
            ApiError: All answers together would hold too many.
        """
        with self._counting:
            held = self._pixels - answer.pixels + pixels
            if pixels and (held > self._limits.decoded_pixels or answer.cancelled):
                raise _busy()
            self._pixels, answer.pixels = held, pixels


async def unless_gone(disconnected: Coroutine[Any, Any, None], wanted: Coroutine[Any, Any, T]) -> T | None:
    """The result of `wanted`, or None when `disconnected` ends first; the other is cancelled."""
    leaving, working = asyncio.ensure_future(disconnected), asyncio.ensure_future(wanted)
    try:
        await asyncio.wait((leaving, working), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()


def _pixels(messages: list[dict[str, Any]]) -> int:
    parts = (part for message in messages if isinstance(message["content"], list) for part in message["content"])
    return sum(part["image"].width * part["image"].height for part in parts if part["type"] == "image")


def _busy() -> ApiError:
    return ApiError(429, "too many requests wait already; try again", code="queue_full", headers={"retry-after": "2"})


def _closing() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down", headers={"retry-after": "10"})
