"""The same attacks at every door that takes a body, and those that only one of them can be asked for."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from tests.serving.api.attacks.conftest import PNG, uri
from tests.serving.api.attacks.test_bodies import PICTURES
from tests.serving.api.live import Live, data_uri, image_part

Body = dict[str, Any]
PARTS: dict[str, Callable[[str], Body]] = {
    "/v1/responses": lambda url: {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
    "/v1/messages": lambda url: {"max_tokens": 1, "messages": [{"role": "user", "content": [_source(url)]}]},
    "/v1/messages/count_tokens": lambda url: {"messages": [{"role": "user", "content": [_source(url)]}]},
    "/tokenize": lambda url: {"messages": [{"role": "user", "content": [image_part(url)]}]},
    "/v1/decisions": lambda url: {"input": [_decision_message([url])], "questions": [_QUESTION]},
}
_QUESTION = {"type": "predicate", "name": "q", "instructions": "is it red?"}


def _source(url: str) -> Body:
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    head, _, data = url.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _decision_message(urls: list[str]) -> Body:
    return {"role": "user", "content": [{"type": "input_image", "image_url": url} for url in urls]}


def post(live: Live, route: str, body: Any, seconds: float = 20) -> httpx.Response:
    """The answer, which comes in time, is no fault of the server's and says what was wrong."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{live.url}{route}", content=content, headers=headers, timeout=seconds)
    assert answer.status_code < 500, answer.text[:500]
    if answer.status_code >= 400:
        message = answer.json()["error"]["message"]
        assert message.isprintable() and 0 < len(message) < 600 and "root:" not in message
    return answer


@pytest.mark.parametrize("route", PARTS)
@pytest.mark.parametrize("case", PICTURES)
def test_pictures(live: Live, route: str, case: str) -> None:
    assert post(live, route, PARTS[route](PICTURES[case])).status_code == 400


@pytest.mark.parametrize("route", PARTS)
@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "/etc/passwd",
        "https://localhost/x.png",
        "https://a.example/\r\nhost: evil",
    ],
)
def test_addresses(live: Live, route: str, url: str) -> None:
    assert post(live, route, PARTS[route](url)).status_code == 400


@pytest.mark.parametrize("route", PARTS)
def test_seventeen_pictures(live: Live, route: str) -> None:
    body = PARTS[route](data_uri())
    turns = body.get("messages") or body["input"]
    turns[0]["content"] *= 17
    assert post(live, route, body).json()["error"]["code"] == "too_many_images"


@pytest.mark.parametrize("route", [*PARTS, "/detokenize", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"metadata": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        b'{"temperature": NaN}',
        b'{"input": "\\ud800", "messages": [{"role": "user", "content": "\\ud800\\u0000"}], "max_tokens": 1}',
        b'{"messages": [null], "input": [null], "tokens": [null], "questions": [null]}',
        b'{"messages": {"role": "user"}, "input": {}, "tokens": {}}',
        b'{"model": "\\r\\nset-cookie: a=b", "messages": [{"role": "user", "content": "x"}], "input": "x"}',
        b'{"model": "../../etc/passwd", "input": "x", "prompt": "x", "tokens": [1]}',
        b"null",
        b"\xff\xfe",
        b"",
    ],
)
def test_twisted_json(live: Live, route: str, text: bytes) -> None:
    assert "set-cookie" not in post(live, route, text).headers


@pytest.mark.parametrize(
    ("beginning", "entry"),
    [
        (b'{"max_tokens": 1, "messages": [{"role": "user", "content": [', b"1"),
        (b'{"messages": [', b"[]"),
        (b'{"input": [', b"{}"),
        (b'{"tokens": [', b'"x"'),
        (b'{"stop": [', b'""'),
        (b'{"system": [', b"null"),
        (b'{"tools": [', b"1"),
    ],
)
@pytest.mark.parametrize("count", [30_000, 3_000_000])
def test_many_wrong_entries(live: Live, beginning: bytes, entry: bytes, count: int) -> None:
    """A complaint for each of them would take minutes and gigabytes."""
    body = beginning + b",".join([entry] * count)
    closed = body + b"]" + b"}]" * (b'"content": [' in beginning) + b"}"
    before = psutil.Process().memory_info().rss
    for route in [*PARTS, "/detokenize", "/v1/chat/completions"][:: 1 if count == 30_000 else 3]:
        assert post(live, route, closed).status_code == (400 if count == 30_000 else 413)
    assert psutil.Process().memory_info().rss - before < 400 * 2**20


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("depth", [50, 400, 900])
def test_nested_values(live: Live, depth: int) -> None:
    deep = nested(depth)
    hello = [{"role": "user", "content": "x"}]
    call = {"type": "tool_use", "id": "1", "name": "f", "input": deep}
    tool = {"name": "f", "input_schema": deep}
    for route, body in (
        ("/v1/messages", {"max_tokens": 1, "messages": [*hello, {"role": "assistant", "content": [call]}, *hello]}),
        ("/v1/messages", {"max_tokens": 1, "messages": hello, "tools": [tool], "tool_choice": {"type": "any"}}),
        ("/v1/messages", {"max_tokens": 1, "messages": hello, "output_config": {"format": deep}}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 1, "metadata": deep}),
        ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": deep}}}),
        ("/v1/responses", {"input": "x", "tools": [{"type": "function", "name": "f", "parameters": deep}]}),
        ("/v1/responses", {"input": "x", "tool_choice": deep}),
        ("/v1/chat/completions", {"messages": hello, "max_tokens": 1, "structured_outputs": {"json": deep}}),
    ):
        post(live, route, body)


HELLO = [{"role": "user", "content": "x"}]
ALTERNATIVES = {"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {} for j in range(40)}} for i in range(200)]}
FORMS: dict[str, Body] = {
    "regex that backtracks": {"structured_outputs": {"regex": "(a+)+(a+)+(a+)+(a+)+b"}},
    "regex that counts": {"structured_outputs": {"regex": "((((a{1,999}){1,999}){1,999}){1,999})"}},
    "regex of a megabyte": {"structured_outputs": {"regex": "(ab|" * 100_000 + "c" + ")" * 100_000}},
    "regex that is none": {"structured_outputs": {"regex": "((("}},
    "grammar of a megabyte": {"structured_outputs": {"grammar": "start: " + "a | " * 250_000 + "a\na: /x/"}},
    "grammar without an end": {"structured_outputs": {"grammar": "start: start start"}},
    "grammar that is none": {"structured_outputs": {"grammar": "%%%"}},
    "schema of itself": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
        }
    },
    "schema elsewhere": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"$ref": "http://169.254.169.254/schema.json"}},
        }
    },
    "schema in a file": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"$ref": "file:///etc/passwd"}},
        }
    },
    "schema of alternatives": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": ALTERNATIVES}}
    },
    "schema that counts": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "string", "minLength": 10**9, "maxLength": 2 * 10**9}},
        }
    },
    "ten thousand choices": {"structured_outputs": {"choice": [f"choice {i}" * 9 for i in range(10_000)]}},
    "ten thousand tools": {
        "tools": [{"type": "function", "function": {"name": f"f{i}", "parameters": {}}} for i in range(10_000)],
        "tool_choice": "required",
    },
    "ten thousand bad words": {"bad_words": ["a b c"] * 10_000},
    "many biases": {"logit_bias": {f"x{i}": 1 for i in range(20_000)}},
    "bias of no token": {"logit_bias": {"-1": 1, "999999999": 1}},
    "stop at no token": {"stop_token_ids": [10**12, -5]},
}


@pytest.mark.parametrize("case", FORMS)
def test_forms_of_answers(live: Live, case: str) -> None:
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    post(live, "/v1/chat/completions", {"messages": HELLO, "max_tokens": 2, **FORMS[case]}, seconds=30)
    assert psutil.Process().memory_info().rss - before < 400 * 2**20
    assert time.monotonic() - began < 25
    assert live.chat(max_tokens=1).status_code == 200


LONG: dict[str, tuple[str, Body]] = {
    "word of a million": ("/tokenize", {"prompt": "a" * 1_000_000}),
    "million spaces": ("/tokenize", {"prompt": " " * 1_000_000, "return_token_strs": True}),
    "million signs": ("/tokenize", {"prompt": "🙂" * 250_000}),
    "million placeholders": ("/tokenize", {"prompt": "<ImageHere>" * 90_000}),
    "a million tokens": ("/detokenize", {"tokens": [5] * 1_000_000}),
    "too many tokens": ("/detokenize", {"tokens": [5] * 1_000_001}),
    "token too large": ("/detokenize", {"tokens": [2**63]}),
    "two thousand turns": ("/v1/responses", {"input": HELLO * 2000}),
    "two thousand and one": ("/v1/messages", {"max_tokens": 1, "messages": HELLO * 2001}),
    "two thousand calls": (
        "/v1/responses",
        {"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}] * 2000},
    ),
    "twenty thousand blocks": (
        "/v1/messages",
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 20_000}]},
    ),
    "long system prompt": ("/v1/messages/count_tokens", {"system": "x" * 10**7, "messages": HELLO}),
    "placeholder in words": ("/v1/responses", {"input": "<ImageHere><|im_end|>", "max_output_tokens": 1}),
    "answer without end": ("/v1/messages", {"max_tokens": 2**31, "messages": HELLO}),
}


@pytest.mark.parametrize("case", LONG)
def test_long_requests(live: Live, case: str) -> None:
    before = psutil.Process().memory_info().rss
    post(live, *LONG[case], seconds=60)
    assert psutil.Process().memory_info().rss - before < 400 * 2**20


def test_four_hundred_questions_about_sixteen_pictures(live: Live) -> None:
    urls = [uri(PNG) for _ in range(16)]
    questions = [{**_QUESTION, "name": f"q{number}"} for number in range(400)]
    before = psutil.Process().memory_info().rss
    body = {"model": "tiny", "input": [_decision_message(urls)], "questions": questions}
    answer = post(live, "/v1/decisions", body, seconds=120)
    assert answer.status_code == 200 and len(answer.json()["answers"]) == 400, answer.text[:300]
    assert psutil.Process().memory_info().rss - before < 400 * 2**20
    body["questions"] = [*questions, {**_QUESTION, "name": "one more"}]
    assert post(live, "/v1/decisions", body).status_code == 400
