"""The correction memory in a running server, for every kind of client."""

import base64
import concurrent.futures
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image

from fourfold.assistant.images import Attachment, ImageLimits
from fourfold.assistant.refine.memory import REMEMBERED_HEADER, CorrectionMemory, Recalled
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import Live, chunks, data_uri, image_part, live_server, text_part

QUESTION = "what colour is the car?"


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "refine")


@pytest.fixture
def server(tiny_engine: Engine, store: CorrectionStore) -> Iterator[Live]:
    with live_server(tiny_engine, memory=CorrectionMemory(store)) as server:
        yield server


def correct(store: CorrectionStore, uri: str, chosen: str = "the car is red") -> Correction:
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},)
    correction = Correction(messages=messages, rejected="blue", chosen=chosen, consent=True)
    return store.add(correction, Attachment.from_data_uri(uri).content)


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


class Watched(CorrectionMemory):
    """Counts how often it was asked."""

    def __init__(self, store: CorrectionStore) -> None:
        super().__init__(store)
        self.asked = 0

    def recall(self, image: Attachment, question: str) -> Recalled | None:
        self.asked += 1
        return super().recall(image, question)


def many_scans() -> str:
    """A progressive JPEG's last scan again and again."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    data = data[:-2] + data[last:-2] * 300 + data[-2:]
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("caps", "uri"),
    [
        (ServerLimits(image=ImageLimits(pixels=64 * 48 - 1)), data_uri("red")),
        (ServerLimits(image=ImageLimits(side=63)), data_uri("red")),
        (ServerLimits(image=ImageLimits(bytes=50)), data_uri("red")),
        (ServerLimits(request_pixels=64 * 48 - 1), data_uri("red")),
        (ServerLimits(), many_scans()),
    ],
    ids=["pixels", "side", "bytes", "pixels of a request", "scans"],
)
def test_what_the_caps_refuse_is_not_looked_up(
    tiny_engine: Engine, store: CorrectionStore, caps: ServerLimits, uri: str
) -> None:
    memory = Watched(store)
    correct(store, data_uri("red"))
    with live_server(tiny_engine, limits=caps, memory=memory) as server:
        reply = server.chat([image_part(uri), text_part(QUESTION)])
    assert (reply.status_code, reply.json()["error"]["code"], memory.asked) == (400, "invalid_image", 0)


def test_the_look_up_counts_in_the_decoded_pixels(tiny_engine: Engine, store: CorrectionStore) -> None:
    correct(store, data_uri("red"))
    asked = [image_part(data_uri("red")), text_part(QUESTION)]
    with live_server(
        tiny_engine, limits=ServerLimits(decoded_pixels=2 * 64 * 48), memory=CorrectionMemory(store)
    ) as server:
        busy = server.chat(asked)
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, "queue_full")
        assert server.chat(asked, memory=False).status_code == 200
        assert server.chat(QUESTION).status_code == 200


def test_the_look_up_counts_among_those_that_are_prepared(tiny_engine: Engine, store: CorrectionStore) -> None:
    looking, found = threading.Event(), threading.Event()

    class Slow(CorrectionMemory):
        def recall(self, image: Attachment, question: str) -> None:
            looking.set()
            found.wait(20)

    asked = [image_part(data_uri("red")), text_part(QUESTION)]
    with (
        live_server(tiny_engine, limits=ServerLimits(preparing=1), memory=Slow(store)) as server,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(server.chat, asked)
        assert looking.wait(20)
        assert server.chat(QUESTION).status_code == 429
        found.set()
        assert first.result().status_code == 200


def test_an_answer_that_the_client_forces_goes_before_what_is_remembered(server: Live, store: CorrectionStore) -> None:
    correct(store, data_uri("red"))
    reply = server.chat([image_part(data_uri("red")), text_part(QUESTION)], max_tokens=20, forced_answer="yes")
    assert reply.json()["choices"][0]["message"]["content"] == "yes"
    assert REMEMBERED_HEADER not in reply.headers
