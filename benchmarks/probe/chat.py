"""What OpenAI's documentation of chat completions promises, asked with its own package."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from PIL import Image

from benchmarks.probe.asked import HELLO, Asked, Check

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
COLOURS = ("red", "blue")
_FORM: Any = {"type": "json_schema", "json_schema": {"name": "colour", "schema": SCHEMA, "strict": True}}
PAINT: Any = {"name": "paint", "description": "Paint it.", "parameters": SCHEMA, "strict": True}
_PAINT: Any = [{"type": "function", "function": PAINT}]
_NAMED: Any = {"type": "function", "function": {"name": "paint"}}


def _limited(asked: Asked, field: str) -> bool:
    answer = asked.chat(**{"max_tokens": openai.omit, field: 2})
    return answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 2


def _usage(asked: Asked) -> bool:
    usage = asked.chat().usage
    return usage.completion_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def _streamed_usage(asked: Asked) -> bool:
    chunks = list(asked.chat(stream=True, stream_options={"include_usage": True}))
    return len(chunks) > 2 and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def _no_usage_unasked(asked: Asked) -> bool:
    chunks = list(asked.chat(stream=True))
    return len(chunks) > 1 and all(chunk.usage is None and chunk.choices for chunk in chunks)


def _same_streamed(asked: Asked) -> bool:
    pieces = [chunk.choices[0].delta.content or "" for chunk in asked.chat(stream=True) if chunk.choices]
    return "".join(pieces) == asked.text() != ""


def _chunks(asked: Asked) -> bool:
    """One id, the role first, a reason last."""
    chunks = [chunk for chunk in asked.chat(stream=True) if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    one = len({chunk.id for chunk in chunks}) == 1 and {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    return one and chunks[0].choices[0].delta.role == "assistant" and reasons[-1] is not None and not any(reasons[:-1])


def _done(asked: Asked) -> bool:
    """As a client without a package reads it."""
    answer = asked.post(stream=True)
    kind = answer.headers["content-type"].partition(";")[0]
    return kind == "text/event-stream" and answer.text.strip().endswith("data: [DONE]")


def _seed(asked: Asked) -> bool:
    return asked.text(temperature=1, seed=7) == asked.text(temperature=1, seed=7) != ""


def _bytes(asked: Asked) -> bool:
    choice = asked.chat(logprobs=True, top_logprobs=2).choices[0]
    pieces = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
    return pieces.decode("utf-8", "replace") == choice.message.content


def _alternatives(asked: Asked) -> bool:
    """Of a greedy answer each token is the likeliest of its three."""
    tokens = asked.chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    best = [max(other.logprob for other in token.top_logprobs) for token in tokens]
    three = all(len(token.top_logprobs) == 3 for token in tokens)
    return three and all(abs(token.logprob - most) < 1e-3 for token, most in zip(tokens, best, strict=True))


def _stop(asked: Asked, *, stream: bool) -> bool:
    """Neither the string nor what is behind it is sent, nor half of it in a stream."""
    text = asked.text()
    stop = text[3:6]
    answer = asked.chat(stop=[stop, "\u2603"], stream=stream)
    if stream:
        choices = [chunk.choices[0] for chunk in answer if chunk.choices]
        said, reason = "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason
    else:
        said, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    return said == text[: text.index(stop)] and reason == "stop"


def _bias(asked: Asked) -> bool:
    """The first token of the greedy answer is forbidden."""
    plain = asked.text(max_tokens=1)
    token = asked.tokenizer.encode(plain, add_special_tokens=False).ids[0]
    return asked.text(max_tokens=1, logit_bias={str(token): -100}) != plain


def _choices(asked: Asked) -> bool:
    choices = asked.chat(n=2, temperature=1, seed=1).choices
    return [choice.index for choice in choices] == [0, 1] and all(choice.message.content for choice in choices)


def _parts(asked: Asked) -> bool:
    parts = [{"type": "text", "text": "Say hello."}]
    return asked.text([{"role": "user", "content": parts}]) == asked.text() != ""


def _instructions(asked: Asked, role: str) -> bool:
    """Are read: they lengthen the prompt."""
    told = [{"role": role, "content": "Speak like a pirate, whatever you are asked."}]
    return asked.prompt_tokens([*told, *HELLO]) > asked.prompt_tokens(HELLO) + 5


def _picture(asked: Asked, kind: str) -> bool:
    """Of a format that OpenAI lists, and it is looked at: it lengthens the prompt."""
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64), "red").save(buffer, kind)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return asked.prompt_tokens(asked.about(uri)) > asked.prompt_tokens(asked.about()) + 2


def _two_pictures(asked: Asked) -> bool:
    uri = asked.picture.data_uri
    one, two = asked.prompt_tokens(asked.about(uri)), asked.prompt_tokens(asked.about(uri, uri))
    return two - one > 2


def _form(asked: Asked) -> bool:
    return json.loads(asked.text(response_format=_FORM, max_tokens=60))["colour"] in COLOURS


def _parsed(asked: Asked) -> bool:
    """A pydantic model as the form, by the package's own `parse`."""
    from typing import Literal

    from pydantic import BaseModel

    class Colour(BaseModel):
        colour: Literal["red", "blue"]

    body: Any = {"model": asked.model, "messages": HELLO, "max_tokens": 60, "temperature": 0}
    parsed = asked.openai.chat.completions.parse(response_format=Colour, **body).choices[0].message.parsed
    return parsed is not None and parsed.colour in COLOURS


def _object(asked: Asked) -> bool:
    answer = asked.chat(
        [{"role": "user", "content": "Say hello in JSON."}], response_format={"type": "json_object"}, max_tokens=40
    ).choices[0]
    text = (answer.message.content or "").lstrip()
    return text.startswith("{") and (answer.finish_reason == "length" or isinstance(json.loads(text), dict))


def _tool(asked: Asked, choice: Any) -> bool:
    answer = asked.chat(tools=_PAINT, tool_choice=choice, max_tokens=60).choices[0]
    (call,) = answer.message.tool_calls
    return call.function.name == "paint" and json.loads(call.function.arguments)["colour"] in COLOURS


def _tool_streamed(asked: Asked) -> bool:
    chunks = asked.chat(tools=_PAINT, tool_choice="required", max_tokens=60, stream=True)
    calls = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or []]
    arguments = "".join(call.function.arguments or "" for call in calls)
    return calls[0].function.name == "paint" and bool(calls[0].id) and json.loads(arguments)["colour"] in COLOURS


def _many(asked: Asked) -> bool:
    """Each gets what it gets alone."""
    questions = [[{"role": "user", "content": f"Say the number {number}."}] for number in range(8)]
    alone = [asked.text(question) for question in questions]
    with ThreadPoolExecutor(len(questions)) as pool:
        return all(alone) and list(pool.map(asked.text, questions)) == alone


def _without_a_trace(asked: Asked) -> bool:
    """Fields that name who asks or what is kept change no answer."""
    fields = {"user": "somebody", "metadata": {"of": "mine"}, "store": False, "safety_identifier": "x"}
    return asked.text(**fields, prompt_cache_key="x") == asked.text() != ""


def _nulls(asked: Asked) -> bool:
    """As programs send them that write every field."""
    names = ["frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "n", "stop", "seed"]
    names += ["stream", "stream_options", "temperature", "top_p", "max_completion_tokens", "user", "metadata"]
    fields: dict[str, Any] = dict.fromkeys(names)
    answer = asked.post(**fields).raise_for_status()
    return bool(answer.json()["choices"][0]["message"]["content"])


def _unknown_model(asked: Asked) -> bool:
    try:
        asked.chat(model="no-such-model")
    except openai.NotFoundError as error:
        return len(error.message) > 10
    return False


def _shape(asked: Asked) -> bool:
    """The package's own reading of an error: message and type."""
    try:
        asked.chat(temperature=-1)
    except openai.BadRequestError as error:
        return isinstance(error.body, dict) and bool(error.body.get("message")) and bool(error.body.get("type"))
    return False


def _too_long(asked: Asked) -> bool:
    config = json.loads((asked.checkpoint / "config.json").read_text(encoding="utf-8"))
    words = " fox" * (config["text_config"]["max_position_embeddings"] + 64)
    return asked.refuses(messages=[{"role": "user", "content": words}])


CHECKS: dict[str, Check] = {
    "an answer": lambda asked: bool(asked.text()),
    "`max_tokens` ends it, for `length`": lambda asked: _limited(asked, "max_tokens"),
    "`max_completion_tokens` too": lambda asked: _limited(asked, "max_completion_tokens"),
    "usage adds up": _usage,
    "stream: what an answer in one piece says": _same_streamed,
    "stream: usage where asked for": _streamed_usage,
    "stream: no usage unasked": _no_usage_unasked,
    "stream: one id, the role first, a reason last": _chunks,
    "stream: events, `[DONE]` at the end": _done,
    "two answers (`n`)": _choices,
    "`seed` repeats an answer": _seed,
    "`logprobs`: bytes make the answer": _bytes,
    "`top_logprobs`: three each, the greedy one first": _alternatives,
    "`stop` is not sent": lambda asked: _stop(asked, stream=False),
    "`stop`, streamed, is not sent": lambda asked: _stop(asked, stream=True),
    "`logit_bias` forbids": _bias,
    "system message": lambda asked: _instructions(asked, "system"),
    "developer message": lambda asked: _instructions(asked, "developer"),
    "content as parts": _parts,
    "picture, JPEG": lambda asked: _picture(asked, "JPEG"),
    "picture, PNG": lambda asked: _picture(asked, "PNG"),
    "picture, WebP": lambda asked: _picture(asked, "WEBP"),
    "picture, GIF": lambda asked: _picture(asked, "GIF"),
    "two pictures": _two_pictures,
    "`response_format`: JSON schema": _form,
    "`response_format`: a pydantic model, by `parse`": _parsed,
    "`response_format`: JSON object": _object,
    "tool required": lambda asked: _tool(asked, "required"),
    "tool by name": lambda asked: _tool(asked, _NAMED),
    "tool call, streamed": _tool_streamed,
    "eight at once, each as alone": _many,
    "fields of identity and storage accepted": _without_a_trace,
    "null in whatever is optional": _nulls,
    "unknown model: 404": _unknown_model,
    "errors have a message and a type": _shape,
    "a temperature of 3 refused": lambda asked: asked.refuses(temperature=3),
    "`top_logprobs` of 21 refused": lambda asked: asked.refuses(logprobs=True, top_logprobs=21),
    "`n` of 0 refused": lambda asked: asked.refuses(n=0),
    "no messages refused": lambda asked: asked.refuses(messages=[]),
    "more than the context refused": _too_long,
}
