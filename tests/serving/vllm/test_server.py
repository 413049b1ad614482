"""vLLM's server as we launch it: answers, adapters, and everything that must not be reachable."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from PIL import Image

from fourfold.serving.engine.engine import Completion
from fourfold.serving.vllm.gate import ROUTES
from tests.serving.vllm.conftest import ADMIN_KEY, QUESTIONS, USER_KEY, Server, launched, litellm_answer, noise

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]  # on a busy machine the server takes minutes to start


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    with launched(checkpoint, log, "--dtype", "float32") as server:
        yield server


def uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def answer(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def test_answer_is_the_local_engines(server: Server, local: dict[str, Completion]) -> None:
    """Greedy without being told, as our own server."""
    for name, (pictures, words) in QUESTIONS.items():
        response = server.chat(*[image(uri(picture)) for picture in pictures], text(words), max_tokens=16)
        # vLLM keeps back the bytes of a character that the last token leaves open; we show U+FFFD.
        assert answer(response).rstrip("\ufffd") == local[name].text.rstrip("\ufffd")
        usage = response.json()["usage"]
        assert usage["prompt_tokens"] == local[name].prompt_tokens
        assert usage["completion_tokens"] == local[name].completion_tokens


def test_streaming_gives_the_same_text_in_pieces(server: Server) -> None:
    content = [image(uri(noise(1))), text("describe this image")]
    client = server.client()
    messages = [{"role": "user", "content": content}]
    whole = client.chat.completions.create(model=server.name, messages=messages, max_tokens=24)
    pieces = list(
        client.chat.completions.create(
            model=server.name, messages=messages, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [piece.choices[0].delta.content or "" for piece in pieces if piece.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(bool(piece) for piece in texts) > 3
    assert pieces[-1].usage == whole.usage


def test_responses_messages_and_tokens_are_the_same_answer(server: Server) -> None:
    """Behind our gate vLLM's own routes, with stock clients: one prompt, one greedy answer."""
    picture = uri(noise(1))
    chat = server.chat(image(picture), text("what is this?"), max_tokens=12).json()
    expected, prompt = chat["choices"][0]["message"]["content"], chat["usage"]["prompt_tokens"]
    parts: list[Any] = [
        {"type": "input_image", "image_url": picture, "detail": "auto"},
        {"type": "input_text", "text": "what is this?"},
    ]
    asked: dict[str, Any] = {"model": server.name, "input": [{"role": "user", "content": parts}]}
    response = server.client().responses.create(**asked, max_output_tokens=12)
    assert response.output_text == expected and response.usage is not None
    assert response.usage.input_tokens == prompt
    last = list(server.client().responses.create(**asked, max_output_tokens=12, stream=True))[-1]
    assert last.type in ("response.completed", "response.incomplete") and last.response.output_text == expected

    client = anthropic.Anthropic(base_url=server.url, api_key=USER_KEY, max_retries=0)
    source = {"type": "base64", "media_type": "image/png", "data": picture.partition(",")[2]}
    content: list[Any] = [{"type": "image", "source": source}, text("what is this?")]
    turns: list[Any] = [{"role": "user", "content": content}]
    message = client.messages.create(model=server.name, messages=turns, max_tokens=12)
    assert "".join(block.text for block in message.content if block.type == "text") == expected
    assert client.messages.count_tokens(model=server.name, messages=turns).input_tokens == prompt
    with client.messages.stream(model=server.name, messages=turns, max_tokens=12) as stream:
        assert "".join(stream.text_stream) == expected

    words = {"model": server.name, "prompt": "what is this?"}
    tokens = server.request("POST", "/tokenize", json=words).json()["tokens"]
    again = server.request("POST", "/detokenize", json={"model": server.name, "tokens": tokens}).json()
    assert again["prompt"].endswith("what is this?")


@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/models/tiny", "/v1/eyes", "/v1/concepts"])
def test_what_vllm_lacks_says_so(server: Server, path: str) -> None:
    answer = server.request("POST", path, key=ADMIN_KEY, json={})
    assert answer.status_code == 501 and "vLLM" in answer.json()["error"]["message"]


def test_own_id_of_a_request_is_kept(server: Server) -> None:
    headers = {"Authorization": f"Bearer {USER_KEY}", "X-Request-Id": "mine-3"}
    assert httpx.get(f"{server.url}/v1/models", headers=headers).headers.get_list("x-request-id") == ["mine-3"]


def test_litellm(server: Server) -> None:
    assert litellm_answer(f"{server.url}/v1", server.name)


def test_model_is_listed_by_name_not_by_path(server: Server, checkpoint: Path) -> None:
    assert [model.id for model in server.client().models.list()] == ["tiny"]


@pytest.mark.parametrize("pictures", [0, 1])
def test_typed_placeholder_is_text(server: Server, pictures: int) -> None:
    """It neither becomes an image nor breaks the request, and reads as the words it is made of."""
    images = [image(uri(noise(1)))] * pictures
    typed = server.chat(*images, text("what is <ImageHere> here?"))
    plain = server.chat(*images, text("what is here?"))
    answer(typed)
    tokens = [response.json()["usage"]["prompt_tokens"] for response in (typed, plain)]
    assert tokens[0] > tokens[1]
    # As a string instead of parts it comes to the template on another way.
    body = {"model": server.name, "messages": [{"role": "user", "content": "what is <ImageHere> here?"}]}
    as_string = server.request("POST", "/v1/chat/completions", json=body | {"max_tokens": 8})
    if not pictures:
        assert answer(as_string) == answer(typed)


REFUSED: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "remote image": lambda: [image("http://127.0.0.1:9/cat.png")],
    "remote image by https": lambda: [image("https://localhost/cat.png")],
    "path": lambda: [image("/etc/hostname")],
    "17 images": lambda: [image(uri(noise(1)))] * 17,
    "too many pixels": lambda: [image(uri(Image.new("1", (10_000, 8_000))))],
    "broken base64": lambda: [image("data:image/png;base64,@@@@")],
    "no image": lambda: [image("data:image/png;base64,aGVsbG8=")],
    "precomputed embeddings": lambda: [{"type": "image_embeds", "image_embeds": "AAAA"}],
    "video": lambda: [{"type": "video_url", "video_url": {"url": uri(noise(1))}}],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_input(server: Server, name: str) -> None:
    response = server.chat(*REFUSED[name](), text("what is this?"))
    assert response.status_code == 400, response.text


def test_file_url_is_refused(server: Server, tmp_path: Path) -> None:
    """Even where there is a picture to be read. vLLM's status is 500, which is unkind but no answer."""
    noise(1).save(tmp_path / "picture.png")
    response = server.chat(image((tmp_path / "picture.png").as_uri()), text("what is this?"))
    assert response.status_code == 500
    assert "Cannot load local files" in response.text


@pytest.mark.parametrize(
    "option",
    [
        {"chat_template": "{{ messages[0]['content'] }}"},
        {"mm_processor_kwargs": {"num_image_tokens": 1000}},
        {"media_io_kwargs": {"image": {"image_mode": "L"}}},
        {"n": 9},
    ],
    ids=lambda option: next(iter(option)),
)
def test_refused_option(server: Server, option: dict[str, Any]) -> None:
    assert server.chat(image(uri(noise(1))), text("what is this?"), **option).status_code == 400


def test_refusal_does_not_spoil_the_next_request_with_the_image(server: Server) -> None:
    """With vLLM's image cache it did, with a 500."""
    picture = image(uri(noise(7)))
    assert server.chat(picture, text("word " * 1000)).status_code == 400
    answer(server.chat(picture, text("what is this?")))


def test_body_is_bounded(server: Server) -> None:
    response = server.request("POST", "/v1/chat/completions", content=b"{" + b" " * (65 * 2**20))
    assert response.status_code == 413


def routes(server: Server) -> list[tuple[str, str]]:
    """(method, path) of everything that vLLM serves, from its log."""
    found = re.findall(r"Route: (\S+), Methods: (.+)", server.log.read_text())
    pairs = [(method.strip(), path) for path, methods in found for method in methods.split(",")]
    assert len(pairs) > 25, "vLLM's log no longer lists its routes"
    return pairs


def test_nothing_but_health_is_open(server: Server) -> None:
    for method, path in routes(server):
        for variant in (path, path.rstrip("/") + "/", "/" + path):
            status = server.request(method, variant, key=None).status_code
            assert status == (200 if variant == "/health" else 401), f"{method} {variant}: {status}"
            assert server.request(method, variant, key="no-such-key-0123").status_code == status


def test_a_key_opens_listed_routes_only(server: Server) -> None:
    closed = [(method, path) for method, path in routes(server) if path not in ROUTES]
    assert {"/invocations", "/load", "/v1/completions", "/scale_elastic_ep"} <= {path for _, path in closed}
    for method, path in [*closed, ("POST", "/pause"), ("POST", "/reset_prefix_cache"), ("GET", "/openapi.json")]:
        for key in (USER_KEY, ADMIN_KEY):
            assert server.request(method, path, key=key).status_code == 404, f"{method} {path}"
    assert "vllm:" in server.request("GET", "/metrics").text


def test_websockets_are_refused(server: Server) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    headers = {"Authorization": f"Bearer {USER_KEY}"}
    with pytest.raises(InvalidStatus, match="403"):
        connect(server.url.replace("http", "ws") + "/v1/realtime", additional_headers=headers)


def test_adapter_changes_the_answer_and_its_removal_restores_it(server: Server, adapter: Path) -> None:
    """Rank 64 is MiniGPT-v2's own, four times what vLLM accepts by default."""
    question = [image(uri(noise(1))), text("what is in the picture?")]
    before = answer(server.chat(*question))
    load = {"lora_name": "taught", "lora_path": str(adapter)}
    assert server.request("POST", "/v1/load_lora_adapter", json=load).status_code == 403, "a user's key is not enough"
    loaded = server.request("POST", "/v1/load_lora_adapter", key=ADMIN_KEY, json=load)
    assert loaded.status_code == 200, loaded.text
    assert [model.id for model in server.client().models.list()] == ["tiny", "taught"]
    assert answer(server.chat(*question, model="taught")) != before
    assert answer(server.chat(*question)) == before
    unload = {"lora_name": "taught"}
    assert server.request("POST", "/v1/unload_lora_adapter", json=unload).status_code == 403
    assert server.request("POST", "/v1/unload_lora_adapter", key=ADMIN_KEY, json=unload).status_code == 200
    assert server.chat(*question, model="taught").status_code == 404
    assert answer(server.chat(*question)) == before


def test_adapter_that_is_no_directory_is_not_looked_for_elsewhere(server: Server) -> None:
    load = {"lora_name": "remote", "lora_path": "somebody/adapter"}
    assert server.request("POST", "/v1/load_lora_adapter", key=ADMIN_KEY, json=load).status_code in (400, 404)


def test_log_holds_no_keys_images_or_prompts(server: Server) -> None:
    """Comes last in this file: the log of everything above."""
    answer(server.chat(image(uri(noise(1))), text("a very particular question")))
    log = server.log.read_text()
    for secret in (USER_KEY, ADMIN_KEY, "very particular", uri(noise(1))[-60:], uri(noise(1))[30:90]):
        assert secret not in log
    assert json.dumps("GET /health")[1:-1] in log  # that there is a log of requests at all
