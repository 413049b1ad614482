"""What every door has before it: web pages of other origins, ids of requests, and words for what is wrong."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fourfold.prompts.errors import UserError
from fourfold.serving.api.cors import read_origins
from fourfold.serving.api.decisions import PROBABILITIES_HEADER, SOURCES_HEADER
from fourfold.serving.api.keys import collect_keys
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import PLAIN, Live, bearer, live_server

PAGE = "https://chat.example"


@pytest.fixture(scope="module")
def pages(tiny_engine: Engine) -> Iterator[Live]:
    with live_server(tiny_engine, keys=collect_keys([PLAIN], None, {}), allowed_origins=[PAGE]) as server:
        yield server


class TestOrigins:
    def preflight(self, server: Live, origin: str, method: str = "POST") -> httpx.Response:
        headers = {
            "origin": origin,
            "access-control-request-method": method,
            "access-control-request-headers": "authorization,content-type,x-stainless-os",
        }
        return httpx.options(f"{server.url}/v1/chat/completions", headers=headers)

    def test_a_listed_page_may_ask_with_its_key(self, pages: Live) -> None:
        allowed = self.preflight(pages, PAGE)
        assert allowed.status_code == 200  # before any key is sent
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        answer = pages.chat(headers={"origin": PAGE, **bearer(PLAIN)})
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"]
        assert {"x-request-id", PROBABILITIES_HEADER, SOURCES_HEADER} <= set(exposed.split(", "))
        refused = pages.chat(headers={"origin": PAGE})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == PAGE  # it can be read

    def test_another_page_may_not(self, pages: Live) -> None:
        for origin in ("https://evil.example", "http://chat.example", f"{PAGE}.evil.example", "null"):
            assert self.preflight(pages, origin).status_code == 400
            answer = pages.chat(headers={"origin": origin, **bearer(PLAIN)})
            assert "access-control-allow-origin" not in answer.headers

    def test_off_by_default(self, live: Live) -> None:
        answer = self.preflight(live, PAGE)
        assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers

    def test_how_origins_are_written(self) -> None:
        given = ["HTTPS://Chat.example", '["http://localhost:3000", "http://[::1]:8"]', "app://obsidian.md"]
        read = read_origins(given, anybody_may_ask=True)
        assert read == [PAGE, "http://localhost:3000", "http://[::1]:8", "app://obsidian.md"]
        assert read_origins(["*"], anybody_may_ask=False) == ["*"]
        with pytest.raises(UserError, match="without keys"):
            read_origins(["*"], anybody_may_ask=True)
        for wrong in ("chat.example", f"{PAGE}/", f"{PAGE}/path", "https://", "https://a:b", "[1]", '["', "null", ""):
            with pytest.raises(UserError, match="is not an origin"):
                read_origins([wrong], anybody_may_ask=False)


class TestRequestIds:
    @pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/models", "/nowhere"])
    def test_a_clients_own_is_kept(self, live: Live, route: str) -> None:
        answer = httpx.get(live.url + route, headers={"x-request-id": "a1b2-c3:d/4"})
        assert answer.headers["x-request-id"] == answer.headers["request-id"] == "a1b2-c3:d/4"

    @pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a\tb", "<script>", "é"])
    def test_else_the_server_makes_one(self, live: Live, given: str | None) -> None:
        headers = {} if given is None else {"x-request-id": given.encode("latin-1")}
        made = httpx.get(f"{live.url}/health", headers=headers).headers["x-request-id"]
        assert len(made) == 16 and made != given


# Words of the validator itself must not come out: they speak of types and tags of ours.
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "stop words": ({"stop": 5}, "stop: must be text, or a list of up to 16 texts$"),
    "many stop words": ({"stop": list("abcdefghijklmnopq")}, "stop: must have at most 16 entries"),
    "a stop word": ({"stop": ["a", 1]}, r"stop\.1: must be text"),
    "messages as text": ({"messages": "hello"}, r'messages: must be a list such as \[{"role"'),
    "no role": ({"messages": [{"content": "x"}]}, r"messages\.0: must be an object with 'role'"),
    "another role": ({"messages": [{"role": "bot", "content": "x"}]}, r"messages\.0: must have as 'role' one of: 'sys"),
    "picture as a number": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}]},
        r"messages\.0\.content\.0\.image_url: .*data:image/png;base64",
    ),
    "picture without url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        r"messages\.0\.content\.0\.image_url\.url: is missing",
    ),
    "temperature": ({"temperature": 9}, "temperature: must be at most 2$"),
    "temperature as text": ({"temperature": "1"}, "temperature: must be a number$"),
    "seed": ({"seed": 1.5}, "seed: must be a whole number$"),
    "stream": ({"stream": "yes"}, "stream: must be true or false$"),
    "top_logprobs": ({"logprobs": True, "top_logprobs": -1}, "top_logprobs: must be at least 0$"),
    "no messages": ({"messages": []}, "messages: must not be empty; it is a list such as"),
    "a large number": ({"max_tokens": 10**30}, "max_tokens: must be at most 2147483648$"),
    "many biases": (
        {"logit_bias": dict.fromkeys(map(str, range(1025)), 1)},
        "logit_bias: 1,025 tokens have a bias; give",
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_words_say_the_right_form(live: Live, case: str) -> None:
    fields, message = FORMS[case]
    answer = live.chat(**fields)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]["message"]), answer.text


PREDICATE = {"type": "predicate", "name": "dog", "instructions": "is there a dog?"}
OTHER_FORMS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "two of a name": (
        "decisions",
        {"input": "x", "questions": [PREDICATE, PREDICATE]},
        "questions",
        "questions: two questions have the same name; .*",
    ),
    "picture of a question": (
        "decisions",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": {"url": "x"}}]}]},
        "input.0.content.0.image_url",
        r'input\.0\.content\.0\.image_url: must be text such as "data:image/png;base64,\.\.\."',
    ),
    "picture by its file": (
        "responses",
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
        "input.0.content.0.image_url",
        r'input\.0\.content\.0\.image_url: is missing; it is text such as "data:.*',
    ),
    "input": ("responses", {"input": 3}, "input", "input: must be text, or a list such as .*"),
    "an item": (
        "responses",
        {"input": [{"type": "item_reference", "id": "x"}]},
        "input.0",
        r"input\.0: must be a message, a function_call or a function_call_output",
    ),
    "system": (
        "messages",
        {"messages": [], "max_tokens": 1, "system": 3},
        "system",
        "system: must be text, or a list .*",
    ),
}


@pytest.mark.parametrize("case", OTHER_FORMS)
def test_other_doors_say_their_own_form(live: Live, case: str) -> None:
    door, body, param, message = OTHER_FORMS[case]
    answer = httpx.post(f"{live.url}/v1/{door}", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param and re.fullmatch(message, error["message"]), answer.text


@pytest.mark.parametrize(("body", "message"), [("", "the body is missing"), ("[]", "the body must be an object")])
@pytest.mark.parametrize("door", ["chat/completions", "responses", "messages", "decisions"])
def test_a_body_that_is_none(live: Live, door: str, body: str, message: str) -> None:
    answer = httpx.post(f"{live.url}/v1/{door}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"] == message


def test_head_is_get_without_the_body(live: Live, pages: Live) -> None:
    """Load balancers and monitors ask so."""
    for route, status in {"/health": 200, "/v1/models": 200, "/v1/chat/completions": 405, "/nothing": 404}.items():
        answer = httpx.head(live.url + route)
        assert (answer.status_code, answer.content) == (status, b"")
    assert httpx.head(f"{pages.url}/v1/models").status_code == 401
