"""Running the HTTP application: the socket, slow clients, and the way out."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from fourfold.prompts.errors import UserError
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.limits import ServerLimits

if TYPE_CHECKING:  # it brings torch, and whoever only binds a port should not wait for that
    from fourfold.serving.api.request_tracker import RequestTracker


LIFELINE = "FOURFOLD_LIFELINE"
"""Environment variable: with any value the server ends when its stdin does, whose other end is its parent's."""


def end_with_parent() -> None:
    """Where `LIFELINE` is set, have SIGTERM come once the parent is gone, however it went."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.get(LIFELINE):
        threading.Thread(target=watch, name="lifeline", daemon=True).start()


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, before anything slow is loaded; port 0 stands for any free one.

    Raises:
        UserError: The address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening takes the port for good; what connects before the model is there hears so from `answering_503`.
        listener.listen(128)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None
    except OverflowError:
        raise UserError(f"{port} is not a port; choose one from 1 to 65535") from None
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def answering_503(listener: socket.socket) -> Iterator[None]:
    """Tell everybody who connects that the model is being loaded, until the block ends; the socket stays open."""
    server = ThreadingHTTPServer(("", 0), _NotYet, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


class _NotYet(BaseHTTPRequestHandler):
    timeout = 10  # seconds for a client to send its request

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/live":  # a supervisor that waits for the model must not end its loading
            self._answer(JSONResponse({"status": "ok"}))
            return
        error = ApiError(503, "the model is being loaded; try again", code="loading", headers={"retry-after": "2"})
        self._answer(error.response())

    def _answer(self, response: Response) -> None:
        self.send_response_only(response.status_code)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(response.body)

    def do_POST(self) -> None:
        # A connection that is closed on what was sent looks broken to the client: its body is read, up to a size.
        size = self.headers.get("content-length", "")
        left = min(int(size), 2**26) if size.isdecimal() else 0
        while left > 0 and (block := self.rfile.read(min(left, 2**16))):
            left -= len(block)
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(uvicorn.Server):
    """Serves until a signal; then gives running answers `grace` seconds and ends them."""

    def __init__(self, app: FastAPI, limits: ServerLimits, grace: float = 20.0) -> None:
        config = uvicorn.Config(
            app,
            http=_protocol(limits.header_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Clients keep connections for 5 seconds and more; closing one as they use it again costs them a request.
            timeout_keep_alive=30,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=int(grace) + 10,
        )
        super().__init__(config)
        self._tracker: RequestTracker = app.state.tracker
        self._grace = grace

    def serve_until_signal(self, listener: socket.socket) -> None:
        """Run in the main thread; SIGTERM and SIGINT end it in order, a second one at once."""
        # uvicorn raises the signal again at the end, for whoever had a handler before.
        signal.signal(signal.SIGTERM, _exit_cleanly)
        self.run(sockets=[listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let answers finish, end those that do not."""
        self._tracker.close()
        ending = asyncio.get_running_loop().call_later(self._grace, self._tracker.end_all)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()


def _exit_cleanly(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _protocol(header_seconds: float) -> type[H11Protocol]:
    """uvicorn waits for ever for the head of a request; this one does not."""

    class ImpatientProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._head_timer:
                self._head_timer.cancel()
            super().connection_lost(exc)

        def _watch_head(self) -> None:
            """The timer runs from the first moment without a head until there is one, however often bytes drip in."""
            if self.conn.their_state is not h11.IDLE:
                if self._head_timer:
                    self._head_timer.cancel()
                    self._head_timer = None
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(header_seconds, self.transport.close)

    return ImpatientProtocol
