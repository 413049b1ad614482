"""The correction memory before an OpenAI-compatible application: ours, or vLLM's by its option `--middleware`.

It works on the request alone. To the same question about the same picture our server answers what was right; otherwise,
and in vLLM, the remembered question and answer are put into the conversation. The response says so in the header
`x-fourfold-remembered`, which streamed answers carry as well; its body stays what OpenAI's clients expect. A request
with `"memory": false` is passed on as it came.
"""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fourfold.assistant.data_uri import from_data_uri
from fourfold.assistant.refine.encoder import ImageEncoder
from fourfold.assistant.refine.memory import Memory, Recalled, reminded
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError

log = logging.getLogger("fourfold.memory")

REMEMBERED_HEADER = "x-fourfold-remembered"
"""Holds the id of the correction that was remembered."""
SETTINGS_VARIABLE = "FOURFOLD_MEMORY"
_ROUTE = "/v1/chat/completions"


def settings(store_directory: Path, model_directory: Path) -> str:
    """What `VLLMMemoryDoor` reads from the environment."""
    return json.dumps({"store": str(store_directory.resolve()), "model": str(model_directory.resolve())})


class CorrectionMemoryMiddleware:
    """ASGI middleware that reminds the model of corrections. It belongs behind the door that checks keys and sizes.

    Args:
        app: the application.
        memory: what is remembered.
    """

    supports_forced_answer = True
    """Whether the application takes `forced_answer`."""

    def __init__(self, app: ASGIApp, memory: Memory) -> None:
        self._app = app
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != _ROUTE:
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        changed, recalled = await asyncio.to_thread(remind, bytes(body), self._memory, self.supports_forced_answer)
        replayed: list[Message] = [{"type": "http.request", "body": changed, "more_body": False}]
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(changed)).encode())]}

        async def receive_again() -> Message:
            return replayed.pop() if replayed else await receive()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start" and recalled is not None:
                MutableHeaders(scope=message)[REMEMBERED_HEADER] = recalled.id
            await send(message)

        await self._app(scope, receive_again, send_marked)


class VLLMMemoryDoor(CorrectionMemoryMiddleware):
    """`CorrectionMemoryMiddleware` as vLLM makes it: from the environment.

    Args:
        app: vLLM's application.

    Raises:
        KeyError: the environment holds no settings.
    """

    supports_forced_answer = False

    def __init__(self, app: ASGIApp) -> None:
        values = json.loads(os.environ[SETTINGS_VARIABLE])
        super().__init__(app, Memory(CorrectionStore(values["store"]), ImageEncoder(values["model"])))


def remind(body: bytes, memory: Memory, supports_forced_answer: bool) -> tuple[bytes, Recalled | None]:
    """The body of a chat request, with what is remembered about its question.

    Whatever is wrong with a request is left for the application to say, and a memory that fails is no reason not to
    answer.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return body, None
    if not isinstance(request, dict):
        return body, None
    wanted = request.pop("memory", None)
    if wanted is not None:
        body = json.dumps(request).encode()
    if wanted is False:
        return body, None
    try:
        found = _question(request)
        recalled = memory.recall(*found) if found else None
    except UserError as error:
        log.warning("nothing could be remembered: %s", error)
        return body, None
    if recalled is None:
        return body, None
    answer = recalled.known if supports_forced_answer else None
    if answer is None:
        request["messages"] = reminded(request["messages"], recalled)
    else:
        request["forced_answer"] = answer
    return json.dumps(request).encode(), recalled


def _question(request: Mapping[str, Any]) -> tuple[bytes, str] | None:
    """The image that a request asks about, and its question; None where that is not one image in the request itself."""
    try:
        *_, last = messages = request["messages"]
        if last["role"] != "user":
            return None
        for message in reversed(messages):
            if urls := [part["image_url"]["url"] for part in _parts(message) if part["type"] == "image_url"]:
                if len(urls) > 1 or not urls[0].startswith("data:"):
                    return None
                words = "\n".join(part["text"] for part in _parts(last) if part["type"] == "text")
                return from_data_uri(urls[0]), words
    except (KeyError, TypeError, ValueError, AttributeError):  # no chat request; the application will say so
        pass
    return None


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message["content"] or ""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
