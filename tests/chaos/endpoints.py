"""An endpoint that breaks off at each byte, hangs, resets, or goes on with garbage, against every client of ours.

What must never happen: that an answer which is not whole is kept as if it were, that a client waits for ever, that
anything but a sentence comes of it.
"""

import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fourfold.prompts.errors import UserError
from tests.chaos.process import Process
from tests.chaos.rounds import Outcome

ANSWER = "The ball is red, and it is <p>the ball</p> {<10><42><35><75>}."
WAYS = ("closed", "reset", "garbage", "hung")
_GARBAGE = bytes(random.Random(0).randbytes(300))
_BOUND = 10.0
"""Seconds within which every client has come to an end; those that may wait long are told to stop after a hang."""


@dataclass
class Plan:
    """How the endpoint answers: `response` up to `offset`, then as `way` says; `whole_from` requests on all of it."""

    response: bytes
    offset: int
    way: str
    whole_from: int = 10**9
    requests: int = 0
    let_go: threading.Event = field(default_factory=threading.Event)


class Faulty:
    """A socket that reads requests and answers by the present plan."""

    def __init__(self) -> None:
        self.plan = Plan(b"", 0, "closed")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(connection, self.plan), daemon=True).start()

    def _answer(self, connection: socket.socket, plan: Plan) -> None:
        with connection:
            try:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536) or _gone()
                head, _, body = data.partition(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head.lower())
                while len(body) < int(found[1] if found else 0):
                    body += connection.recv(65536) or _gone()
                plan.requests += 1
                if plan.requests > plan.whole_from:
                    connection.sendall(plan.response)
                    return
                connection.sendall(plan.response[: plan.offset])
                if plan.way == "garbage":
                    connection.sendall(_GARBAGE)
                elif plan.way == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif plan.way == "hung":
                    plan.let_go.wait(30)
            except OSError:
                pass


def _gone() -> bytes:
    raise ConnectionError


def response(body: bytes, kind: str, form: str) -> bytes:
    """A whole HTTP response: of known `length`, in `chunks`, or until the connection is `closed`."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n"
    if form == "length":
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    if form == "closed":
        return f"{head}connection: close\r\n\r\n".encode() + body
    pieces = [piece + b"\n\n" for piece in body.split(b"\n\n") if piece]
    chunks = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


def recorded_stream() -> bytes:
    """The events of an answer, as the scripted endpoint of the page's tests and our server write them."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    words = re.findall(r"\S+\s*", ANSWER)
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": word}, None) for word in words] + [({}, "stop")]
    events = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas]
    events.append({**head, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}})
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"


def recorded_completion() -> bytes:
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    whole = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(whole).encode()


# Each client: what it made of a plan, "" for nothing wrong.


class PageClient:
    """The page's: a question in a history, answered in the background."""

    streams = True

    def __init__(self, url: str, folder: Path) -> None:
        from fourfold.assistant.chat.history import InMemoryHistory
        from fourfold.assistant.images import Attachment
        from fourfold.ui.state.answering import ModelSettings
        from fourfold.ui.state.endpoint import Endpoint
        from tests.assistant.refine.corrections import encoded, picture

        self._history = InMemoryHistory()
        self._picture = Attachment(encoded(picture(1)))
        self._model = ModelSettings(Endpoint(url), "m")

    def __call__(self, plan: Plan) -> str:
        from fourfold.ui.state import answering

        name = self._history.create()
        turn = answering.ask(self._history, name, None, "what is it?", [self._picture], [self._model])
        limit = time.monotonic() + (0.3 if plan.way == "hung" else _BOUND)
        while not turn.done and time.monotonic() < limit:
            time.sleep(0.001)
        if plan.way == "hung":
            turn.stop()
            limit = time.monotonic() + _BOUND
            while not turn.done and time.monotonic() < limit:
                time.sleep(0.001)
        if not turn.done:
            return "it still waits"
        answering.drop(name)
        messages = self._history.messages(name)
        if len(messages) == 1:
            told = messages[0].response_metadata.get("fourfold") or {}
            return "" if {"error", "stopped", "empty"} & told.keys() else f"no answer and no reason: {told}"
        figures, text = messages[1].response_metadata["fourfold"], str(messages[1].text)
        if not ANSWER.startswith(text):
            return f"it kept {text!r}"
        marked = "error" in figures or figures.get("finish_reason") != "stop"
        if text != ANSWER and not marked:
            return f"it kept {text!r} as a whole answer: {figures}"
        error = figures.get("error", "")
        return f"no sentence: {error!r}" if "Traceback" in error or "\n" in error else ""


class EvaluationClient:
    """The evaluation's, which asks again what failed."""

    streams = False

    def __init__(self, url: str, folder: Path) -> None:
        from fourfold.eval import endpoint as module
        from fourfold.eval.task import Sample

        module.FIRST_WAIT = 0.005
        self._module, self._url, self._sample, self._model = module, url, Sample, module.EndpointModel

    def __call__(self, plan: Plan) -> str:
        plan.whole_from = 1
        # A machine that is busy must not be taken for an endpoint that hangs.
        self._module._TIMEOUT = 1.0 if plan.way == "hung" else _BOUND
        got: list[Any] = []
        model = self._model([self._url], "m")
        sample = self._sample(id="1", prompt="what is it?", image=None)
        try:
            model.generate([sample], max_tokens=20, template={}, on_output=lambda _, output: got.append(output))
        except UserError as error:
            return f"it gave up: {error}"
        if len(got) != 1:
            return f"{len(got)} answers"
        if got[0].error is None and got[0].text != ANSWER:
            return f"it kept {got[0].text!r}"
        return "" if got[0].error is None else f"{plan.requests} requests, {got[0].error}"


class McpClient:
    """The MCP tools'."""

    streams = False

    def __init__(self, url: str, folder: Path) -> None:
        from fourfold.assistant.images import Attachment
        from fourfold.serving.mcp.endpoint import Endpoint
        from tests.assistant.refine.corrections import encoded, picture

        self._endpoint, self._picture = Endpoint(url, "m"), Attachment(encoded(picture(1)))
        # Half a second before it asks once more is too much for thousands of times.
        self._endpoint._connected()._calculate_retry_timeout = lambda *given: 0.005  # type: ignore[method-assign]

    def __call__(self, plan: Plan) -> str:
        if plan.way == "hung":
            self._endpoint._connected().timeout = 0.3  # type: ignore[misc]
        try:
            text, _ = self._endpoint.answer([self._picture], "what?", 20, threading.Event(), lambda words: None)
        except UserError as error:
            return "" if "\n" not in str(error) else f"no sentence: {error}"
        return "" if text == ANSWER else f"it gave back {text!r}"


class AdminClient:
    """The one that changes the adapter of a server."""

    streams = False

    def __init__(self, url: str, folder: Path) -> None:
        import httpx

        from fourfold.assistant.refine import deploy

        deploy._TIMEOUT = httpx.Timeout(0.5)
        self._admin, self._folder = deploy.ServerAdmin(url, "key"), folder

    def __call__(self, plan: Plan) -> str:
        try:
            self._admin.load(self._folder)
        except UserError as error:
            return "" if "\n" not in str(error) else f"no sentence: {error}"
        # It looks at the status alone: as many bytes as were promised are whole, whatever they are.
        begun = plan.offset >= plan.response.index(b"\r\n\r\n") + 4
        sent = plan.offset + (len(_GARBAGE) if plan.way == "garbage" else 0)
        return "" if begun and sent >= len(plan.response) else "it took a part for a whole"


CLIENTS: dict[str, Callable[[str, Path], Callable[[Plan], str]]] = {
    "page": PageClient,
    "evaluation": EvaluationClient,
    "mcp": McpClient,
    "admin": AdminClient,
}


def plans(dice: random.Random, streams: bool, every: int | None, count: int) -> Iterator[Plan]:
    """Closed at every so many bytes in the form of HTTP that our server has, more rarely in others; and `count` plans
    at random.
    """
    body, kind = (recorded_stream(), "text/event-stream") if streams else (recorded_completion(), "application/json")
    # JSON until the connection is closed has no end that could be missed; a stream has [DONE].
    forms = ("chunks", "closed", "length") if streams else ("length",)
    if every:
        for form in forms:
            whole, step = response(body, kind, form), every if form == forms[0] else 11 * every
            yield from (Plan(whole, offset, "closed") for offset in range(dice.randrange(step), len(whole) + 1, step))
    for _ in range(count):
        whole = response(body, kind, dice.choice(forms))
        yield Plan(whole, dice.randrange(len(whole)), dice.choice(WAYS))


@contextmanager
def faulty_client(name: str, folder: Path) -> Iterator[tuple[Faulty, Callable[[Plan], str]]]:
    """A client of ours and the endpoint that it asks."""
    server = Faulty()
    yield server, CLIENTS[name](server.url, folder)


def attack(name: str, dice: random.Random, folder: Path, every: int | None, count: int) -> dict[str, Any]:
    """Run a client through its plans: how many of which way, and what went wrong."""
    ways: dict[str, int] = {}
    wrong: list[str] = []
    with faulty_client(name, folder) as (server, client):
        for plan in plans(dice, name == "page", every, count):
            server.plan = plan
            began = time.monotonic()
            try:
                problem = client(plan)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            plan.let_go.set()
            if plan.requests > 2:
                problem = problem or f"it asked {plan.requests} times"
            if time.monotonic() - began > _BOUND + 2:
                problem = problem or f"it took {time.monotonic() - began:.0f} s"
            ways[plan.way] = ways.get(plan.way, 0) + 1
            if problem:
                wrong.append(f"{name}, {plan.way} at byte {plan.offset} of {len(plan.response)}: {problem}"[:500])
    return {"ways": ways, "wrong": wrong}


class EndpointFaults:
    """Each client in turn, in a process of its own; the first time at every byte."""

    name = "endpoint"

    def __init__(self) -> None:
        self._rounds = 0

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome = Outcome()
        name = list(CLIENTS)[self._rounds % len(CLIENTS)]
        every = 1 if self._rounds < len(CLIENTS) else None
        self._rounds += 1
        result = folder / "result.json"

        def work() -> None:
            result.write_text(json.dumps(attack(name, dice, folder, every, 40)))

        process = Process(partial(work), folder / "log.txt")
        outcome.expect(process.wait(1200) == 0, f"{name}: {process.said()[-600:]}")
        told = json.loads(result.read_text()) if result.exists() else {"ways": {}, "wrong": []}
        for way, number in told["ways"].items():
            outcome.faults[f"endpoint {way}: {name}"] += number
        outcome.problems += told["wrong"][:20]
        return outcome
