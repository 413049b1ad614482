"""What every door has before it: web pages of other origins, ids of requests, and words for what is wrong."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fourfold.prompts.errors import UserError
from fourfold.serving.api.cors import read_origins
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
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
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
    "stop words": ({"stop": 5}, "stop: must be .*text, or a list of up to 16 texts"),
    "many stop words": ({"stop": list("abcdefghijklmnopq")}, "stop: must have at most 16 entries"),
    "a stop word": ({"stop": ["a", 1]}, r"stop\.1: must be text"),
    "messages as text": ({"messages": "hello"}, r'messages: must be a list; it is a list such as \[{"role"'),
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
}


@pytest.mark.parametrize("case", FORMS)
def test_words_say_the_right_form(live: Live, case: str) -> None:
    fields, message = FORMS[case]
    answer = live.chat(**fields)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]["message"]), answer.text
