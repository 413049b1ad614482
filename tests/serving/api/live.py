"""A real server on a loopback port, in a thread, for tests that talk to it as a client would."""

import base64
import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from fourfold.assistant.refine.memory import CorrectionMemory
from fourfold.serving.api.app import create_app
from fourfold.serving.api.keys import KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.remote_images import RemoteImages
from fourfold.serving.api.server import Server, bind
from fourfold.serving.engine.engine import Engine
from tests.serving.engine.conversations import wait_for

HOT = {"temperature": 1.0, "seed": 7}
ADMIN, PLAIN = "admin-key-0123456789", "plain-key-0123456789"


@dataclass(frozen=True)
class Live:
    """A running server."""

    url: str
    port: int
    server: Server

    def chat(self, content: Any = "hello", *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        """Ask with one user message."""
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    def metric(self, name: str) -> float:
        """A sample of /metrics by its whole name, labels included."""
        page = httpx.get(f"{self.url}/metrics", timeout=10).text
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name + " "))


@contextlib.contextmanager
def live_server(
    engine: Engine,
    *,
    keys: KeyRing | None = None,
    limits: ServerLimits | None = None,
    remote: RemoteImages | None = None,
    memory: CorrectionMemory | None = None,
    grace: float = 5.0,
    listener: socket.socket | None = None,
    **options: Any,
) -> Iterator[Live]:
    """Serve `engine` until the block ends; `options` are those of `create_app`."""
    keys, limits = keys or KeyRing(), limits or ServerLimits()
    options = {"remote": remote, "local_names_only": not keys, "memory": memory, **options}
    app = create_app(engine, keys=keys, limits=limits, **options)
    listener = listener or bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(app, limits, grace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Live(f"http://127.0.0.1:{port}", port, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not shut down"


def data_uri(colour: str = "red", size: tuple[int, int] = (64, 48), kind: str = "PNG") -> str:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_part(url: str) -> dict[str, Any]:
    """An image as OpenAI's API takes it."""
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    """Text as OpenAI's API takes it in a list."""
    return {"type": "text", "text": text}


def bearer(key: str) -> dict[str, str]:
    """A request's header with an API key."""
    return {"authorization": f"Bearer {key}"}


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The objects of a streamed answer, which must have been ended in order."""
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
