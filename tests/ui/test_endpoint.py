"""Any address may be given for an endpoint: what answers there is a list of models or a sentence."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import openai
import pytest

from fourfold.prompts.errors import UserError
from fourfold.ui.state.endpoint import Endpoint, served_models
from fourfold.ui.state.error_messages import sentence
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.session import Session
from fourfold.ui.state.settings import Settings, configure
from tests.ui.scripted import Scripted
from tests.ui.test_page import page

PAGE = b"<!DOCTYPE html><html><head><title>Example</title></head></html>"


@pytest.fixture
def answers() -> Iterator[Callable[..., str]]:
    """Start something that answers every GET so; its address."""
    servers = []

    def start(status: int, kind: str, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", PAGE),
        (404, "text/html", PAGE),
        (200, "application/json", b"[1, 2]"),
        (200, "application/json", b'{"data": "x"}'),
        (200, "application/json", b'{"data": [{"id": 5}, null]}'),
        (200, "application/json", b"null"),
        (200, "application/json", b"{"),
        (200, "text/plain", b""),
        (404, "application/json", b'{"detail": "Not Found"}'),
        (405, "application/json", b'{"detail": [{"loc": ["x"], "msg": "no such method"}]}'),
        (501, "text/html", PAGE),
    ],
)
def test_what_lists_no_models_is_a_sentence_and_usable_by_a_name(answers, status: int, kind: str, body: bytes) -> None:
    url = answers(status, kind, body)
    with pytest.raises(UserError) as refused:
        served_models(Endpoint(url))
    said = sentence(refused.value, url)
    assert said[0].isupper() and said.endswith((".", "?")) and not any(sign in said for sign in "<>{}[]\\")
    assert [served.name for served in served_models(Endpoint(url, model="llava"))] == ["llava"]


@pytest.mark.parametrize(
    "body",
    [
        [{"id": "a"}, {"id": "b"}],  # without its envelope
        ["a", "b"],
        {"models": [{"name": "a"}, {"model": "b"}]},
        {
            "data": [
                {"id": "a", "max_model_len": "long", "parent": 7, "card": 3},
                {"id": "b", "owned_by": None},
                {"id": ""},
            ]
        },
    ],
)
def test_lists_in_other_forms_are_lists(answers, body: object) -> None:
    served = served_models(Endpoint(answers(200, "application/json", json.dumps(body).encode())))
    assert [model.name for model in served] == ["a", "b"]
    assert all(model.context_length is None and model.parent is None for model in served)


def test_an_endpoint_that_is_not_there_or_wants_another_key_is_not_usable_by_a_name(answers) -> None:
    with pytest.raises(UserError, match="Is it running"):
        served_models(Endpoint("http://127.0.0.1:9/v1", model="llava"))
    with pytest.raises(UserError, match="refuses this key"):
        served_models(Endpoint(answers(401, "application/json", b"{}"), model="llava"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "too long."}}, "The endpoint cannot answer this: too long."),
        ({"message": "too long"}, "The endpoint cannot answer this: too long."),
        ({"error": "too long"}, "The endpoint cannot answer this: too long."),
        ({"detail": [{"msg": "too\nlong", "loc": []}]}, "The endpoint cannot answer this: too long."),
        ({"object": "error", "errors": {"x": 1}}, "The endpoint cannot answer this."),
        ("<html>500</html>", "The endpoint cannot answer this."),
        ("odd \ud800 \x00\x1b[31m words", "The endpoint cannot answer this: odd \ufffd [31m words."),
        (None, "The endpoint cannot answer this."),
    ],
)
def test_errors_are_sentences_without_stray_signs(body: object, words: str) -> None:
    request = httpx.Request("POST", "http://a/v1/chat/completions")
    error = openai.BadRequestError("Error code: 400 - {...}", response=httpx.Response(400, request=request), body=body)
    assert sentence(error, "http://a/v1") == words


def test_a_reply_that_is_no_answer_is_a_sentence() -> None:
    said = sentence(ValueError("No generation chunks were returned"), "http://a/v1")
    assert said == "The endpoint http://a/v1 did not answer as OpenAI's do. Its address usually ends with /v1."


def test_a_chosen_endpoint_stays_after_a_reload_and_its_key_is_never_written_down(tmp_path: Path) -> None:
    first, other = Scripted().start(), Scripted(models=("other",)).start()
    settings = Settings(first.url, history=tmp_path / "history.sqlite", corrections=tmp_path / "refine")

    def tab() -> Session:
        found = Session(settings, Preferences.load(settings.preferences))
        found.connect()
        return found

    found = tab()
    assert found.endpoint == Endpoint(first.url)
    found.choose(Endpoint(other.url, "SECRET KEY"))
    found.connect()
    again = tab()
    assert again.endpoint == Endpoint(other.url, "SECRET KEY") and [m.name for m in again.models] == ["other"]
    assert not any(b"SECRET" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    again.choose(Endpoint(other.url))  # its key is still known
    assert again.endpoint == Endpoint(other.url, "SECRET KEY")
    # Started anew with an endpoint, that one counts; without any, the last one, whose key has to be given again.
    fresh = Settings(first.url, history=tmp_path / "history.sqlite", corrections=tmp_path / "refine")
    assert Session(fresh, Preferences.load(fresh.preferences)).chosen_endpoint is None
    alone = Settings(history=tmp_path / "history.sqlite", corrections=tmp_path / "refine")
    assert Session(alone, Preferences.load(alone.preferences)).chosen_endpoint == Endpoint(other.url)
    again.choose(None)
    assert tab().endpoint == Endpoint(first.url)
    for server in (first, other):
        server.shutdown()
        server.server_close()


def test_the_page_of_an_endpoint_without_a_list(answers, tmp_path: Path) -> None:
    url = answers(200, "text/html", PAGE)
    configure(Settings(url, history=tmp_path / "h.sqlite", corrections=tmp_path / "refine"))
    app = page()
    assert "lists no models as OpenAI" in app.error[0].value and app.button(key="sample-0-0").disabled
    named = Settings(url, model="llava", history=tmp_path / "h.sqlite", corrections=tmp_path / "refine")
    configure(named)
    app = page()
    assert not app.error and not app.button(key="sample-0-0").disabled
