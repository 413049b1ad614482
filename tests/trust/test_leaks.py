"""What one client sends is in nothing that another sees, and a picture that breaks its decoder breaks nothing else."""

import base64
import concurrent.futures
import logging
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.memory import CorrectionMemory
from fourfold.assistant.refine.record import Correction
from tests.assistant.images.planted import planted_faults, with_fault
from tests.serving.api.live import Live, live_server
from tests.trust.clients import (
    ADMIN,
    ALICE,
    BOB,
    NAME,
    PICTURES,
    Situation,
    World,
    asked,
    asks,
    key_ring,
    told,
    uri,
    wrong,
)
from tests.trust.traces import Canary


class Eavesdropper:
    """Bob, who asks for all there is while and after Alice is served, and an owner with a log at its most talkative."""

    def __init__(self, server: Live) -> None:
        self.url = server.url

    def everything(self) -> bytes:
        """Bodies and headers of whatever an ordinary key can ask for, and of what it cannot."""
        question = {"type": "predicate", "instructions": "is it?"}
        words = asked("what is in the picture?", 2)
        posts: dict[str, Any] = {
            "/v1/chat/completions": {"messages": words, "max_tokens": 8, "logprobs": True, "top_logprobs": 5},
            "/v1/messages": {"model": NAME, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8},
            "/v1/responses": {"model": NAME, "input": "what did the one before me ask?", "max_output_tokens": 8},
            "/v1/decisions": {"input": "the car is red.", "questions": [question]},
            "/v1/eyes": {"image": uri(PICTURES[1]), "phrase": "dog"},
            "/tokenize": {"prompt": "hello"},
            "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "/"},
            "/v1/concepts": {"name": "a", "image": uri(PICTURES[1]), "boxes": [[0, 0, 1, 1]]},
        }
        found = []
        with httpx.Client(headers={"authorization": f"Bearer {BOB}"}, timeout=60) as client:
            gets = [
                "/v1/models",
                f"/v1/models/{NAME}",
                "/v1/models/x",
                "/metrics",
                "/openapi.json",
                "/ready",
                "/v1/concepts",
            ]
            answers = [client.get(self.url + path) for path in [*gets, "/v1/concepts/export", "/nowhere"]]
            answers += [client.post(self.url + path, json=body) for path, body in posts.items()]
            answers += [client.post(self.url + path, json={"messages": 1, "model": "?"}) for path in posts]
            for answer in answers:
                found += [answer.content, repr(answer.headers.multi_items()).encode()]
        return b"\n".join(found)


def test_nothing_of_one_client_reaches_another(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    alice, owner, bob_sees = Canary(11), Canary(12), list[bytes]()
    for name in ("httpx", "httpcore"):  # the clients' own
        caplog.set_level(logging.WARNING, name)
    caplog.set_level(logging.DEBUG)
    corrections, concepts = world.stores()
    with (
        world.engine() as engine,
        live_server(
            engine, keys=key_ring(), memory=CorrectionMemory(corrections), looking=world.looking(engine, concepts)
        ) as server,
        httpx.Client(headers={"authorization": f"Bearer {ALICE}"}, timeout=60) as client,
    ):
        question = [{"type": "image"}, {"type": "text", "text": f"where is {owner.words}?"}]
        messages = ({"role": "user", "content": question},)
        record = Correction(messages=messages, rejected="no", chosen=owner.words, consent=True)
        corrections.add(record, owner.file)
        concepts.show(owner.words.split()[0], owner.attachment, [Box(0.1, 0.1, 0.5, 0.5)])
        bob, done = Eavesdropper(server), threading.Event()

        def listen() -> None:
            while not done.is_set():
                bob_sees.append(bob.everything())

        listening = threading.Thread(target=listen)
        listening.start()
        picture = {"type": "image_url", "image_url": {"url": alice.attachment.data_uri}}
        said = [picture, {"type": "text", "text": alice.words}]
        good = {"messages": [{"role": "user", "content": said}], "max_tokens": 8, "user": alice.words}
        statuses = [client.post(f"{server.url}/v1/chat/completions", json=good).status_code]
        with client.stream("POST", f"{server.url}/v1/chat/completions", json={**good, "stream": True}) as response:
            next(response.iter_lines())
        looks = {**good, "model": NAME + "+eyes", "metadata": {"a": alice.words}}
        statuses.append(client.post(f"{server.url}/v1/chat/completions", json=looks).status_code)
        statuses += [
            client.post(f"{server.url}/v1/chat/completions", json=body).status_code for body in wrong(said, alice)
        ]
        elsewhere = [
            f"/{alice.words}",
            f"/v1/models/{alice.words}",
            f"/v1/concepts/{alice.words}",
            f"/metrics?{alice.words}",
        ]
        statuses += [client.get(server.url + path).status_code for path in elsewhere]
        statuses.append(
            httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {alice.words}"}).status_code
        )
        done.set()
        listening.join()
        bob_sees.append(bob.everything())
        admin = httpx.get(f"{server.url}/v1/concepts", headers={"authorization": f"Bearer {ADMIN}"}).content
    assert statuses[0] == 200 and set(statuses) == {200, 400, 401, 403, 404}
    assert bob_sees and all(b'"object":"list"' in seen and b"fourfold_http_requests" in seen for seen in bob_sees)
    seen = b"\n".join(bob_sees)
    assert alice.in_bytes(seen) == set() and owner.in_bytes(seen) == set()
    assert alice.in_bytes(admin) == set() and "word 0" in owner.in_bytes(admin)
    streams = capfd.readouterr()
    log = "\n".join([caplog.text, streams.out, streams.err])
    assert "POST /v1/chat/completions 200" in log
    assert alice.in_bytes(log.encode()) == set() and owner.in_bytes(log.encode()) == set()


def test_a_decoder_that_crashes_costs_one_request(world: World, tmp_path: Path) -> None:
    """Those who ask at the same time get their answers, and so does the next."""
    good = next(ask for ask in asks() if ask.name == "picture, greedy")
    file = base64.b64decode(uri(PICTURES[2]).partition(",")[2])
    concepts = world.stores()[1]
    with (
        planted_faults(tmp_path),
        world.engine() as engine,
        live_server(engine, looking=world.looking(engine, concepts)) as server,
        concurrent.futures.ThreadPoolExecutor(8) as threads,
    ):

        def send(number: int) -> httpx.Response:
            fault = ("abort", None, "segfault", None)[number % 4]
            if fault is None:
                return httpx.post(server.url + good.path, json=good.body, timeout=60)
            url = f"data:image/png;base64,{base64.b64encode(with_fault(file, fault)).decode()}"
            if number % 8 > 3:
                return httpx.post(f"{server.url}/v1/eyes", json={"image": url, "phrase": "dog"}, timeout=60)
            body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
            return httpx.post(server.url + good.path, json=body, timeout=60)

        for number, response in enumerate(threads.map(send, range(16))):
            if number % 2:
                assert told(good, response) == world.alone(good, Situation())
            else:
                error = response.json()["error"]
                assert response.status_code == 400 and error["code"] == "invalid_image"
                assert error["message"] == "image 1 is damaged: its decoder crashed; save it as JPEG or PNG anew"
        assert told(good, send(1)) == world.alone(good, Situation())
