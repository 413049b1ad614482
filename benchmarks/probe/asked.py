"""A server to ask, by stock clients, by bodies that no client would write, and by bare bytes."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
from tokenizers import Tokenizer

from fourfold.assistant.images import Attachment

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
CLOSE = {"connection": "close"}
"""A connection a request: what a server does to one after an error must not cost the next check."""
Check = Callable[["Asked"], bool]


@dataclass(frozen=True)
class Asked:
    """A server.

    Attributes:
        url: its address without /v1.
        model: the model's name there.
        picture: an image file.
        checkpoint: the model's directory, whose tokenizer counts.
        trap: address of a web server here that a model's server must not call, and the paths it was asked for.
    """

    url: str
    model: str
    picture: Attachment
    checkpoint: Path
    trap: str = "http://127.0.0.1:9"
    trapped: list[str] = field(default_factory=list)

    # Making a client takes a third of a second: the certificates of the world are read.
    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, headers=CLOSE)

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60, default_headers=CLOSE
        )

    @cached_property
    def anthropic(self) -> Any:
        import anthropic

        return anthropic.Anthropic(base_url=self.url, api_key="none", max_retries=0, timeout=60, default_headers=CLOSE)

    @cached_property
    def langchain(self) -> Any:
        from langchain_openai import ChatOpenAI

        options: dict[str, Any] = {"api_key": "none", "temperature": 0, "max_tokens": 60, "max_retries": 0}
        return ChatOpenAI(model=self.model, base_url=f"{self.url}/v1", timeout=120, **options)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.checkpoint / "tokenizer.json"))

    def chat(self, messages: Any = HELLO, **fields: Any) -> Any:
        body = {"model": self.model, "max_tokens": 12, "temperature": 0, **fields}
        return self.openai.chat.completions.create(messages=messages, **body)

    def text(self, messages: Any = HELLO, **fields: Any) -> str:
        return self.chat(messages, **fields).choices[0].message.content or ""

    def prompt_tokens(self, messages: Any, **fields: Any) -> int:
        return int(self.chat(messages, max_tokens=1, **fields).usage.prompt_tokens)

    def about(self, *urls: str) -> list[Any]:
        """A question about pictures."""
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}]

    def respond(self, input: Any = "Say hello.", **fields: Any) -> Any:
        body = {"model": self.model, "max_output_tokens": 12, "stream": False, **fields}
        return self.openai.responses.create(input=input, **body)

    def message(self, messages: Any = HELLO, **fields: Any) -> Any:
        # Greedy, which the package has given up and the API has not.
        body = {"model": self.model, "messages": messages, "max_tokens": 12, "extra_body": {"temperature": 0}, **fields}
        return self.anthropic.messages.create(**body)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def raw(self, body: str | bytes, path: str = CHAT, **headers: str) -> httpx.Response:
        """Whatever stands in the body, said to be JSON unless the headers say something else."""
        given = {**JSON, **{name.replace("_", "-"): text for name, text in headers.items()}}
        return self.http.post(path, content=body, headers=given)

    def post(self, path: str = CHAT, **fields: Any) -> httpx.Response:
        """A body that a stock client would not send: a chat's unless the path says another."""
        chat = {"model": self.model, "messages": HELLO, "max_tokens": 4, "temperature": 0} if path == CHAT else {}
        return self.raw(json.dumps({**chat, **fields}), path)

    def refuses(self, **fields: Any) -> bool:
        return refused(self.post(**fields))

    def refuses_picture(self, url: str) -> bool:
        """And asks nobody for it."""
        before = len(self.trapped)
        return self.refuses(messages=self.about(url)) and len(self.trapped) == before

    def exchange(self, sent: bytes, seconds: float = 20.0) -> bytes:
        """What comes back on a connection of its own until the server closes it or says nothing for a second."""
        with self.connection() as connection:
            connection.settimeout(seconds)
            got = b""
            try:
                connection.sendall(sent)
                while block := connection.recv(65536):
                    got += block
                    connection.settimeout(1.0)
            except (TimeoutError, ConnectionError):
                pass
            return got

    def connection(self) -> socket.socket:
        address = urlsplit(self.url)
        return socket.create_connection((address.hostname or "", address.port or 80), timeout=10)

    def answers(self) -> bool:
        """Whether it is still there: a short question is answered."""
        return bool(self.text(max_tokens=4))


def refused(answer: httpx.Response, *, absent: bool = False) -> bool:
    """With a 4xx that says something, in JSON; that there is no such thing counts where it may be `absent`."""
    if answer.status_code >= 500:
        answer.raise_for_status()
    if not 400 <= answer.status_code < 500 or (answer.status_code in (404, 405) and not absent):
        return False
    said = answer.json()
    error = said.get("error", said)
    words = error.get("message", "") if isinstance(error, dict) else error
    return len(str(words or said.get("detail", ""))) > 5
