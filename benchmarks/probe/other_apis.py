"""OpenAI's other routes, Anthropic's messages, what clients send to local servers, and what operators ask."""

import json
import re
from typing import Any

import openai

from benchmarks.probe.asked import CHAT, HELLO, Asked, Check
from benchmarks.probe.chat import COLOURS, PAINT, SCHEMA

_FORM = {"format": {"type": "json_schema", "name": "colour", "schema": SCHEMA, "strict": True}}
_TOOL: Any = {"name": "paint", "description": "Paint it.", "input_schema": SCHEMA, "strict": True}


def _events(asked: Asked) -> bool:
    """In their order, numbered, and the text of the pieces is the answer's."""
    events = list(asked.respond(stream=True))
    kinds = [event.type for event in events]
    pieces = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    numbers = [event.sequence_number for event in events]
    ends = ("response.completed", "response.incomplete")
    framed = kinds[0] == "response.created" and kinds[-1] in ends and numbers == sorted(set(numbers))
    return framed and bool(pieces) and pieces == events[-1].response.output_text


def _incomplete(asked: Asked) -> bool:
    answer = asked.respond(max_output_tokens=16, input="Tell me a long story about a fox and a bear.")
    if answer.status == "completed":
        return answer.usage.output_tokens < 16
    return answer.incomplete_details.reason == "max_output_tokens" and answer.usage.output_tokens == 16


def _instructions(asked: Asked) -> bool:
    told = asked.respond(instructions="Speak like a pirate, whatever you are asked.").usage.input_tokens
    return told > asked.respond().usage.input_tokens + 5


def _responses_picture(asked: Asked) -> bool:
    seen = {"type": "input_image", "image_url": asked.picture.data_uri, "detail": "auto"}
    words = {"type": "input_text", "text": "?"}
    without = asked.respond([{"role": "user", "content": [words]}]).usage.input_tokens
    return asked.respond([{"role": "user", "content": [seen, words]}]).usage.input_tokens > without + 2


def _responses_tool(asked: Asked) -> bool:
    answer = asked.respond(tools=[{"type": "function", **PAINT}], tool_choice="required", max_output_tokens=60)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    return call.name == "paint" and json.loads(call.arguments)["colour"] in COLOURS


def _unknown_response(asked: Asked) -> bool:
    try:
        asked.respond(previous_response_id="resp_1")
    except (openai.BadRequestError, openai.NotFoundError) as error:
        return "resp_1" in error.message or "previous" in error.message
    return False


def _decision(asked: Asked) -> bool:
    question: Any = {"type": "predicate", "name": "q", "instructions": "Is it a photo?"}
    image = {"type": "input_image", "image_url": asked.picture.data_uri}
    content: Any = [{"role": "user", "content": [image]}]
    return len(asked.openai.decisions.create(model=asked.model, input=content, questions=[question]).answers) == 1


def _completion(asked: Asked) -> bool:
    made = asked.openai.completions.create(model=asked.model, prompt="The fox", max_tokens=4, temperature=0)
    return bool(made.choices[0].text)


OPENAI: dict[str, Check] = {
    "responses": lambda asked: bool(asked.respond().output_text),
    "responses: events": _events,
    "responses: picture": _responses_picture,
    "responses: instructions": _instructions,
    "responses: JSON schema": lambda asked: (
        json.loads(asked.respond(text=_FORM, max_output_tokens=60).output_text)["colour"] in COLOURS
    ),
    "responses: function call": _responses_tool,
    "responses: incomplete where tokens ran out": _incomplete,
    "responses: an unknown earlier one refused": _unknown_response,
    "decisions": _decision,
    "completions (legacy)": _completion,
    "models: one by name": lambda asked: asked.openai.models.retrieve(asked.model).id == asked.model,
    "models: list": lambda asked: asked.model in [model.id for model in asked.openai.models.list()],
}


def _source(asked: Asked) -> Any:
    head, _, data = asked.picture.data_uri.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _message_events(asked: Asked) -> bool:
    with asked.anthropic.messages.stream(model=asked.model, messages=HELLO, max_tokens=12) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    framed = kinds[0] == "message_start" and kinds[1] == "content_block_start" and kinds[-1] == "message_stop"
    return framed and bool(final.content[0].text) and final.usage.output_tokens > 0


def _read(usage: Any) -> int:
    return int(usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0))


def _message_picture(asked: Asked) -> bool:
    words = {"type": "text", "text": "?"}
    seen = asked.message([{"role": "user", "content": [_source(asked), words]}]).usage
    return _read(seen) > _read(asked.message([{"role": "user", "content": [words]}]).usage) + 2


def _system(asked: Asked) -> bool:
    told = asked.message(system="Speak like a pirate, whatever you are asked.").usage
    return _read(told) > _read(asked.message().usage) + 5


def _stop_sequence(asked: Asked) -> bool:
    text = asked.message().content[0].text
    stop = text[3:6]
    answer = asked.message(stop_sequences=[stop])
    said = "".join(block.text for block in answer.content)
    named = answer.stop_reason == "stop_sequence" and answer.stop_sequence == stop
    return named and said == text[: text.index(stop)]


def _tool_use(asked: Asked) -> bool:
    answer = asked.message(tools=[_TOOL], tool_choice={"type": "any"}, max_tokens=60)
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    return answer.stop_reason == "tool_use" and call.name == "paint" and call.input["colour"] in COLOURS


def _message_limit(asked: Asked) -> bool:
    answer = asked.message(max_tokens=2)
    return answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 2


def _message_error(asked: Asked) -> bool:
    import anthropic

    try:
        asked.message(max_tokens=0)
    except anthropic.BadRequestError as error:
        body: Any = error.body
        return body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    return False


def _count_tokens(asked: Asked) -> bool:
    count = asked.anthropic.messages.count_tokens(model=asked.model, messages=HELLO).input_tokens
    return count == _read(asked.message().usage)


ANTHROPIC: dict[str, Check] = {
    "messages": lambda asked: bool(asked.message().content[0].text),
    "messages: events": _message_events,
    "messages: picture": _message_picture,
    "messages: system": _system,
    "messages: stop sequence, named": _stop_sequence,
    "messages: `max_tokens` named": _message_limit,
    "messages: tool use": _tool_use,
    "messages: errors in its shape": _message_error,
    "messages: count_tokens": _count_tokens,
}


def _outputs(asked: Asked, **form: Any) -> str:
    return asked.text(extra_body={"structured_outputs": form})


def _stop_named(asked: Asked) -> bool:
    stop = asked.text()[3:6]
    return asked.chat(stop=[stop]).choices[0].model_extra.get("stop_reason") == stop


def _tokens(asked: Asked) -> bool:
    given = {"model": asked.model, "prompt": "A red ball.", "add_special_tokens": False}
    tokens = asked.post("/tokenize", **given).raise_for_status().json()["tokens"]
    return asked.post("/detokenize", model=asked.model, tokens=tokens).json()["prompt"] == "A red ball."


def _structured(asked: Asked) -> bool:
    schema = {"title": "colour", "description": "A colour.", **SCHEMA}
    return asked.langchain.with_structured_output(schema, method="json_schema").invoke("Which?")["colour"] in COLOURS


def _bound(asked: Asked) -> bool:
    tool = {"type": "function", "function": PAINT}
    (call,) = asked.langchain.bind_tools([tool], tool_choice="paint").invoke("Paint it.").tool_calls
    return call["name"] == "paint" and call["args"]["colour"] in COLOURS


def _langchain_stream(asked: Asked) -> bool:
    pieces = list(asked.langchain.stream("Say hello.", stream_usage=True))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    return bool(whole.content) and whole.usage_metadata["output_tokens"] > 0


def _langchain_picture(asked: Asked) -> bool:
    """In LangChain's own form of a picture."""
    data = asked.picture.data_uri.partition(",")[2]
    image = {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/jpeg"}
    answer = asked.langchain.invoke([{"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}])
    return bool(answer.content) and answer.usage_metadata["input_tokens"] > 10


def _cache_control(asked: Asked) -> bool:
    """A mark of Anthropic's inside OpenAI's form, as LiteLLM sends it: it changes nothing."""
    part = {"type": "text", "text": "Say hello.", "cache_control": {"type": "ephemeral"}}
    return asked.text([{"role": "user", "content": [part]}]) == asked.text() != ""


def _expect(asked: Asked) -> bool:
    """curl waits for "100 Continue" before it sends a body of more than a megabyte."""
    body = json.dumps({"model": asked.model, "messages": HELLO, "max_tokens": 2, "temperature": 0}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    with asked.connection() as connection:
        connection.settimeout(30)
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        first = connection.recv(4096)
        connection.sendall(body)
        rest = b""
        while block := connection.recv(65536):
            rest += block
    return b" 100 " in first.partition(b"\r\n")[0] and b" 200 " in rest.partition(b"\r\n")[0]


PROGRAMS: dict[str, Check] = {
    "vLLM's `structured_outputs`: regex": lambda asked: bool(
        re.fullmatch("[0-9]{4}", _outputs(asked, regex="[0-9]{4}"))
    ),
    "vLLM's `structured_outputs`: choice": lambda asked: _outputs(asked, choice=["left", "right"]) in ("left", "right"),
    "vLLM's `top_k`": lambda asked: asked.text(temperature=2, seed=1, extra_body={"top_k": 1}) == asked.text(),
    "vLLM's `min_tokens`": lambda asked: (
        asked.chat(max_tokens=40, extra_body={"min_tokens": 40}).usage.completion_tokens == 40
    ),
    "vLLM's `stop_reason`": _stop_named,
    "vLLM's tokenize, detokenize": _tokens,
    "LangChain: stream with usage": _langchain_stream,
    "LangChain: picture": _langchain_picture,
    "LangChain: `with_structured_output`": _structured,
    "LangChain: `bind_tools`": _bound,
    "LiteLLM: `cache_control` in a part": _cache_control,
    "curl: `Expect: 100-continue`": _expect,
}


def _metrics(asked: Asked) -> bool:
    """In Prometheus' text format, with something about requests."""
    answer = asked.get("/metrics")
    return answer.status_code == 200 and "# TYPE " in answer.text and "request" in answer.text


def _no_such_route(asked: Asked) -> bool:
    answer = asked.get("/v1/nowhere")
    return answer.status_code == 404 and bool(answer.json())


OPERATORS: dict[str, Check] = {
    "health": lambda asked: asked.get("/health").status_code == 200,
    "metrics": _metrics,
    "request's own id kept": lambda asked: (
        asked.get("/v1/models", x_request_id="mine").headers.get("x-request-id") == "mine"
    ),
    "no such route: 404, in JSON": _no_such_route,
}
