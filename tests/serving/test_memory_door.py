"""The correction memory in a running server, for every kind of client."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from fourfold.assistant.data_uri import from_data_uri
from fourfold.assistant.refine.memory import Memory
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.serving.api.correction_memory import REMEMBERED_HEADER, VLLMMemoryDoor, remind, settings
from fourfold.serving.engine.engine import Engine
from tests.serving.live import Live, chunks, data_uri, image_part, live_server, text_part

QUESTION = "what colour is the car?"


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "refine")


@pytest.fixture
def server(tiny_engine: Engine, store: CorrectionStore) -> Iterator[Live]:
    with live_server(tiny_engine, memory=Memory(store)) as server:
        yield server


def correct(store: CorrectionStore, uri: str, chosen: str = "the car is red") -> Correction:
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},)
    correction = Correction(messages=messages, rejected="blue", chosen=chosen, consent=True)
    return store.add(correction, from_data_uri(uri))


def test_a_correction_comes_back_until_it_is_forgotten(server: Live, store: CorrectionStore) -> None:
    asked = [image_part(data_uri("red")), text_part("[vqa] What color is the car")]
    before = server.chat(asked, max_tokens=20)
    assert REMEMBERED_HEADER not in before.headers
    correction = correct(store, data_uri("red"))
    reminded = server.chat(asked, max_tokens=20)
    assert (reminded.status_code, reminded.headers[REMEMBERED_HEADER]) == (200, correction.id)
    (choice,) = reminded.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("the car is red", "stop")
    assert reminded.json()["usage"]["prompt_tokens"] == before.json()["usage"]["prompt_tokens"]
    streamed = server.chat(asked, stream=True)
    assert streamed.headers[REMEMBERED_HEADER] == correction.id
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks(streamed)]
    assert "".join(pieces) == "the car is red"
    cut = server.chat(asked, max_tokens=2).json()["choices"][0]
    assert cut["finish_reason"] == "length" and "the car is red".startswith(cut["message"]["content"])
    for other in (
        [image_part(data_uri("blue")), text_part(QUESTION)],
        [image_part(data_uri("red")), text_part("how many cars?")],
        [image_part(data_uri("red")), image_part(data_uri("red")), text_part(QUESTION)],
        QUESTION,
    ):
        assert REMEMBERED_HEADER not in server.chat(other).headers
    assert REMEMBERED_HEADER not in server.chat(asked, memory=False).headers
    assert REMEMBERED_HEADER in server.chat(asked, memory=True).headers
    store.forget(correction.id)
    after = server.chat(asked, max_tokens=20)
    assert REMEMBERED_HEADER not in after.headers
    assert after.json()["choices"] == before.json()["choices"]


def test_an_ordinary_client_sees_nothing_but_the_header(server: Live, store: CorrectionStore) -> None:
    correction = correct(store, data_uri("red"))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    messages = [{"role": "user", "content": [image_part(data_uri("red")), text_part(QUESTION)]}]
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=messages, max_tokens=4)  # type: ignore[call-overload]
    assert raw.headers[REMEMBERED_HEADER] == correction.id
    assert raw.parse().choices[0].message.role == "assistant"
    off = client.chat.completions.with_raw_response.create(
        model="tiny", messages=messages, max_tokens=4, extra_body={"memory": False}
    )  # type: ignore[call-overload]
    assert REMEMBERED_HEADER not in off.headers


def test_a_later_question_about_an_earlier_image(server: Live, store: CorrectionStore) -> None:
    correction = correct(store, data_uri("red"))
    messages = [
        {"role": "user", "content": [image_part(data_uri("red")), text_part("what is this?")]},
        {"role": "assistant", "content": "a car"},
        {"role": "user", "content": QUESTION},
    ]
    reply = httpx.post(
        f"{server.url}/v1/chat/completions", json={"messages": messages, "max_tokens": 4}, timeout=60
    )  # fmt: skip
    assert (reply.status_code, reply.headers[REMEMBERED_HEADER]) == (200, correction.id)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[1]",
        b"null",
        b'{"messages": []}',
        b'{"messages": 3}',
        b'{"messages": [3]}',
        b'{"messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "user", "content": null}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}]}',
        b'{"messages": [{"role": 7, "content": "x"}]}',
    ],
)
def test_what_is_no_request_is_left_to_the_application(server: Live, store: CorrectionStore, body: bytes) -> None:
    correct(store, data_uri("red"))
    assert remind(body, Memory(store), True) == (body, None)
    headers = {"content-type": "application/json"}
    assert httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers).status_code == 400


def test_an_image_that_cannot_be_read_is_refused_as_ever(server: Live, store: CorrectionStore) -> None:
    correct(store, data_uri("red"))
    broken = [image_part("data:image/png;base64,aGVsbG8="), text_part(QUESTION)]
    reply = server.chat(broken)
    assert reply.status_code == 400
    assert "image" in reply.json()["error"]["message"]


def test_a_store_that_breaks_does_not_stop_the_answers(server: Live, store: CorrectionStore) -> None:
    correct(store, data_uri("red"))
    for file in store.directory.iterdir():
        file.write_bytes(b"no database " * 100)
    reply = server.chat([image_part(data_uri("red")), text_part(QUESTION)])
    assert (reply.status_code, REMEMBERED_HEADER in reply.headers) == (200, False)


async def test_vllm_makes_its_door_from_the_environment(
    store: CorrectionStore, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError):
        VLLMMemoryDoor(None)  # type: ignore[arg-type]
    monkeypatch.setitem(os.environ, "FOURFOLD_MEMORY", settings(store.directory, tiny_checkpoint))
    correction = correct(store, data_uri("red"))
    seen = []

    async def application(scope, receive, send):  # type: ignore[no-untyped-def]
        seen.append((dict(scope["headers"]), (await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    request = {"messages": [{"role": "user", "content": [image_part(data_uri("red")), text_part(QUESTION)]}]}
    transport = httpx.ASGITransport(VLLMMemoryDoor(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://vllm") as client:
        reply = await client.post("/v1/chat/completions", json=request)
        assert reply.headers[REMEMBERED_HEADER] == correction.id
        await client.post("/tokenize", json=request)
    headers, body = seen[0]
    assert int(headers[b"content-length"]) == len(body)
    assert [message["role"] for message in json.loads(body)["messages"]] == ["user", "assistant", "user"]
    assert json.loads(seen[1][1]) == request
