"""An endpoint that does as the test tells it: counts what it is asked, and fails on purpose."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response


@dataclass
class Script:
    """How the endpoint behaves; `asked` counts the prompts that it answered."""

    url: str = ""
    delay: float = 0.0
    busy_every: int = 0  # every n-th request gets 429
    refuse: str | None = None  # prompts that contain this get 400
    die_after: int | None = None  # answers, then nothing but 503
    answer: str = "yes"
    remembers: str | None = None  # prompts that contain this are answered from a correction memory, asked or not
    strict: bool = False  # fields that OpenAI does not have get 400
    rejects: dict[str, str] = field(default_factory=dict)  # field -> what a 400 says where a request has it
    root: str = "/v1"  # where the API begins
    thought: str | None = None  # beside the answer, as servers with a reasoning parser tell it
    name: str = "scripted"  # of the model
    raw: tuple[str, str] | None = None  # content type and body of what comes in place of every answer
    reply: Callable[[list[dict[str, Any]]], str] | None = None  # from the messages, instead of `answer`
    asked: Counter[str] = field(default_factory=Counter)
    images: Counter[bool] = field(default_factory=Counter)
    requests: int = 0
    most_at_once: int = 0
    at_once: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)


def _prompt(body: dict[str, Any]) -> tuple[str, bool]:
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content, False
    return content[-1]["text"], any(part["type"] == "image_url" for part in content)


def _app(script: Script) -> FastAPI:
    app = FastAPI()

    @app.get(script.root + "/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": script.name, "object": "model", "created": 0, "owned_by": "test"}]}

    @app.post(script.root + "/chat/completions")
    async def complete(request: Request, response: Response) -> Any:
        body = await request.json()
        script.requests += 1
        script.bodies.append(body)
        prompt, image = _prompt(body)
        if script.raw is not None:
            return Response(script.raw[1], media_type=script.raw[0])
        if script.die_after is not None and sum(script.asked.values()) >= script.die_after:
            return JSONResponse({"error": {"message": "gone"}}, 503)
        if script.busy_every and script.requests % script.busy_every == 0:
            return JSONResponse({"error": {"message": "busy"}}, 429, headers={"retry-after": "0.05"})
        if script.refuse and script.refuse in prompt:
            return JSONResponse({"error": {"message": "not this one"}}, 400)
        if script.strict and "memory" in body:
            return JSONResponse({"error": {"message": "Unrecognized request argument supplied: memory"}}, 400)
        if wrong := next((name for name in script.rejects if name in body), None):
            # Half of the world's servers are FastAPI's, and tell it in its way.
            plainly = wrong in ("memory", "seed")
            told = script.rejects[wrong]
            return JSONResponse({"detail": told} if plainly else {"error": {"message": told}}, 422 if plainly else 400)
        script.at_once += 1
        script.most_at_once = max(script.most_at_once, script.at_once)
        await asyncio.sleep(script.delay)
        script.at_once -= 1
        script.asked[prompt] += 1
        script.images[image] += 1
        if script.remembers and script.remembers in prompt:
            response.headers["x-fourfold-remembered"] = "correction-1"
        text = script.reply(body["messages"]) if script.reply else script.answer
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": text,
                **({"reasoning_content": script.thought} if script.thought else {}),
            },
        }
        if body.get("logprobs"):
            top = [
                {"token": token, "logprob": value, "bytes": None}
                for token, value in ((" red", -0.1), ("b", -3.0), ("yes", -1.0), ("no", -2.0))
            ]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [choice],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    return app


@contextmanager
def endpoint(script: Script) -> Iterator[Script]:
    """Serve the script on a free port of this machine."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_app(script), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield script
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()
