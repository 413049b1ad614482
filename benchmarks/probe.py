"""Who answers what: the same calls by stock clients to this server, `transformers serve` and vLLM.

    python -m benchmarks.probe [--model DIR] [--only NAME ...] [--json out.json]

A call counts as answered where the client takes the answer and what was asked for is in it; being accepted is not
enough. The servers run one after another, on the CPU.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai

from benchmarks.questions import jpeg, picture
from benchmarks.servers import Server, commands
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.files import write_text
from fourfold.assistant.images import Attachment

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
_FORM: Any = {"type": "json_schema", "json_schema": {"name": "colour", "schema": _SCHEMA, "strict": True}}


@dataclass(frozen=True)
class Asked:
    """A server to ask: its address without /v1, the model's name there, and a picture as a data URI."""

    url: str
    model: str
    picture: str

    # Making a client takes a third of a second: the certificates of the world are read.
    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    @cached_property
    def anthropic(self) -> Any:
        import anthropic

        return anthropic.Anthropic(base_url=self.url, api_key="none", max_retries=0, timeout=300)

    def chat(self, messages: list[Any] = HELLO, **fields: Any) -> Any:
        body = {"model": self.model, "max_tokens": 12, "temperature": 0, **fields}
        return self.openai.chat.completions.create(messages=messages, **body)

    def text(self, messages: list[Any] = HELLO, **fields: Any) -> str:
        return self.chat(messages, **fields).choices[0].message.content or ""

    def about_picture(self, image: Any) -> list[Any]:
        part = {"type": "image_url", "image_url": image}
        return [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]

    def respond(self, input: Any = "Say hello.", **fields: Any) -> Any:
        body = {"model": self.model, "max_output_tokens": 12, **fields}
        return self.openai.responses.create(input=input, **body)

    def message(self, messages: list[Any] = HELLO, **fields: Any) -> Any:
        return self.anthropic.messages.create(model=self.model, messages=messages, max_tokens=12, **fields)

    @property
    def source(self) -> Any:
        head, _, data = self.picture.partition(",")
        kind = head.removeprefix("data:").removesuffix(";base64")
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body).raise_for_status()


def _streamed_usage(asked: Asked) -> bool:
    chunks = list(asked.chat(stream=True, stream_options={"include_usage": True}))
    return len(chunks) > 2 and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def _picture_matters(asked: Asked) -> bool:
    picture = asked.chat(asked.about_picture({"url": asked.picture}))
    words = asked.chat([{"role": "user", "content": "What is this?"}])
    return picture.usage.prompt_tokens > words.usage.prompt_tokens + 2


def _bytes(asked: Asked) -> bool:
    choice = asked.chat(logprobs=True, top_logprobs=2).choices[0]
    pieces = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
    return pieces.decode("utf-8", "replace") == choice.message.content


def _stop_named(asked: Asked) -> bool:
    text = asked.text()
    stop = text[3:6]
    choice = asked.chat(stop=[stop]).choices[0]
    return choice.message.content == text[: text.index(stop)] and choice.model_extra.get("stop_reason") == stop


def _tool_call(asked: Asked) -> bool:
    function = {"name": "paint", "parameters": _SCHEMA}
    message = (
        asked.chat(tools=[{"type": "function", "function": function}], tool_choice="required", max_tokens=60)
        .choices[0]
        .message
    )
    (call,) = message.tool_calls
    return json.loads(call.function.arguments)["colour"] in ("red", "blue")


def _bias(asked: Asked) -> bool:
    """The first token of the greedy answer is forbidden."""
    plain = asked.text(max_tokens=1)
    token = asked.post("/tokenize", model=asked.model, prompt=plain, add_special_tokens=False).json()["tokens"][0]
    return asked.text(max_tokens=1, logit_bias={str(token): -100}) != plain


def _min_tokens(asked: Asked) -> bool:
    return asked.chat(max_tokens=40, extra_body={"min_tokens": 40}).usage.completion_tokens == 40


def _top_k(asked: Asked) -> bool:
    return asked.text(temperature=2, seed=1, extra_body={"top_k": 1}) == asked.text()


def _responses_events(asked: Asked) -> bool:
    kinds = [event.type for event in asked.respond(stream=True)]
    ends = ("response.completed", "response.incomplete")
    return kinds[0] == "response.created" and kinds[-1] in ends and "response.output_text.delta" in kinds


def _responses_picture(asked: Asked) -> bool:
    parts = [{"type": "input_image", "image_url": asked.picture, "detail": "auto"}, {"type": "input_text", "text": "?"}]
    words = asked.respond([{"role": "user", "content": parts[1:]}])
    return asked.respond([{"role": "user", "content": parts}]).usage.input_tokens > words.usage.input_tokens + 2


def _responses_form(asked: Asked) -> bool:
    form = {"format": {"type": "json_schema", "name": "colour", "schema": _SCHEMA, "strict": True}}
    return json.loads(asked.respond(text=form, max_output_tokens=60).output_text)["colour"] in ("red", "blue")


def _messages_events(asked: Asked) -> bool:
    with asked.anthropic.messages.stream(model=asked.model, messages=HELLO, max_tokens=12) as stream:
        text = "".join(stream.text_stream)
        return bool(text) and stream.get_final_message().usage.output_tokens > 0


def _messages_picture(asked: Asked) -> bool:
    content = [asked.source, {"type": "text", "text": "?"}]
    with_it = asked.message([{"role": "user", "content": content}]).usage
    without = asked.message([{"role": "user", "content": content[1:]}]).usage
    tokens = [usage.input_tokens + (usage.cache_read_input_tokens or 0) for usage in (with_it, without)]
    return tokens[0] > tokens[1] + 2


def _count_tokens(asked: Asked) -> bool:
    count = asked.anthropic.messages.count_tokens(model=asked.model, messages=HELLO).input_tokens
    return count == asked.chat().usage.prompt_tokens


def _decision(asked: Asked) -> bool:
    question: Any = {"type": "predicate", "name": "q", "instructions": "Is it a photo?"}
    content: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": asked.picture}]}]
    decision = asked.openai.decisions.create(model=asked.model, input=content, questions=[question])
    return len(decision.answers) == 1


def _tokens(asked: Asked) -> bool:
    tokens = asked.post("/tokenize", model=asked.model, prompt="A red ball.", add_special_tokens=False).json()["tokens"]
    return asked.post("/detokenize", model=asked.model, tokens=tokens).json()["prompt"] == "A red ball."


def _refused(call: Callable[[], Any]) -> bool:
    """With a 4xx that says something."""
    try:
        call()
    except openai.APIStatusError as error:
        if error.status_code >= 500:
            raise
        return len(error.message) > 10
    return False


def _id_kept(asked: Asked) -> bool:
    return asked.get("/v1/models", x_request_id="mine").headers["x-request-id"] == "mine"


def _wrong_parts(asked: Asked) -> bool:
    """In time, and by one complaint, not one for each."""
    body = json.dumps({"model": asked.model, "messages": [{"role": "user", "content": [1] * 100_000}]})
    headers = {"content-type": "application/json"}
    answer = asked.http.post("/v1/chat/completions", content=body, headers=headers)
    return 400 <= answer.status_code < 500 and len(answer.content) < 10_000


def _cors(asked: Asked) -> bool:
    """A page that nobody listed is told nothing."""
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    preflight = asked.http.options("/v1/chat/completions", headers=headers)
    return "access-control-allow-origin" not in preflight.headers


PROBES: dict[str, Callable[[Asked], bool]] = {
    "chat": lambda asked: bool(asked.text()),
    "chat, streamed with usage": _streamed_usage,
    "chat, picture": _picture_matters,
    "chat, picture as its URL alone": lambda asked: bool(asked.text(asked.about_picture(asked.picture))),
    "chat, two answers": lambda asked: len(asked.chat(n=2, temperature=1, seed=1).choices) == 2,
    "chat, seed repeats": lambda asked: asked.text(temperature=1, seed=7) == asked.text(temperature=1, seed=7),
    "chat, bytes of log-probabilities": _bytes,
    "chat, stop string named": _stop_named,
    "chat, JSON schema": lambda asked: "colour" in json.loads(asked.text(response_format=_FORM, max_tokens=60)),
    "chat, regex": lambda asked: bool(
        re.fullmatch("[0-9]{4}", asked.text(extra_body={"structured_outputs": {"regex": "[0-9]{4}"}}))
    ),
    "chat, choice": lambda asked: (
        asked.text(extra_body={"structured_outputs": {"choice": ["left", "right"]}}) in ("left", "right")
    ),
    "chat, required tool": _tool_call,
    "chat, top_k": _top_k,
    "chat, min_tokens": _min_tokens,
    "chat, logit_bias": _bias,
    "responses": lambda asked: bool(asked.respond().output_text),
    "responses, events": _responses_events,
    "responses, picture": _responses_picture,
    "responses, JSON schema": _responses_form,
    "responses, unknown earlier one refused": lambda asked: _refused(
        lambda: asked.respond(previous_response_id="resp_1")
    ),
    "messages": lambda asked: bool(asked.message().content[0].text),
    "messages, events": _messages_events,
    "messages, picture": _messages_picture,
    "messages, count_tokens": _count_tokens,
    "decisions": _decision,
    "tokenize, detokenize": _tokens,
    "models, one by name": lambda asked: asked.openai.models.retrieve(asked.model).id == asked.model,
    "health": lambda asked: asked.get("/health").status_code == 200,
    "request's own id kept": lambda asked: (
        asked.get("/v1/models", x_request_id="mine").headers["x-request-id"] == "mine"
    ),
    "pages of other origins kept out": _cors,
    "picture of a private address refused": lambda asked: _refused(
        lambda: asked.text(asked.about_picture({"url": "http://127.0.0.1:9/x.png"}))
    ),
    "picture in a local file refused": lambda asked: _refused(
        lambda: asked.text(asked.about_picture({"url": "file:///etc/hostname"}))
    ),
    "many wrong parts refused": _wrong_parts,
}


def probe(asked: Asked) -> dict[str, str]:
    """ "yes", or in a few words why not, for each of `PROBES`."""
    found = {}
    for name, call in PROBES.items():
        try:
            found[name] = "yes" if call(asked) else "no: accepted, not done"
        except Exception as error:  # whatever a client makes of what it gets
            status = getattr(error, "status_code", None) or getattr(
                getattr(error, "response", None), "status_code", None
            )
            found[name] = f"no: {status}" if status else f"no: {type(error).__name__}"
    return found


def table(found: dict[str, dict[str, str]]) -> str:
    """Markdown: a row a call, a column a server."""
    head = ["call", *found]
    rows = [[name, *(answers.get(name, "") for answers in found.values())] for name in PROBES]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Start each server, ask it, print the table."""
    known = list(commands(Path(), 0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="servers to ask")
    parser.add_argument("--json", type=Path, help="where the answers go")
    given = parser.parse_args()
    model = resolve_model(given.model)
    photo = Attachment(jpeg(picture()), "picture").data_uri
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as logs:
        for name in given.only:
            print(f"asking: {name}", file=sys.stderr, flush=True)
            try:
                with closing(Server(name, model, Path(logs))) as server:
                    url = str(server.client.base_url).rstrip("/").removesuffix("/v1")
                    found[name] = probe(Asked(url, server.called, photo))
            except (OSError, RuntimeError, openai.APIError) as error:
                found[name] = dict.fromkeys(PROBES, f"not started: {error}"[:80])
    print(table(found))
    if given.json:
        write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
