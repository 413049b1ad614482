"""Many clients at once, clients that leave, and the end of the server."""

import concurrent.futures
import json
import socket
import threading
from pathlib import Path

import httpx
import pytest

from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import HOT, Live, data_uri, image_part, live_server, text_part
from tests.serving.engine.conversations import slow_down, wait_for


class TestLoad:
    def test_answers_at_once_share_passes(self, live: Live) -> None:
        steps = live.metric("fourfold_engine_steps_total")
        live.chat(max_tokens=60, **HOT)
        alone = live.metric("fourfold_engine_steps_total") - steps
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda seed: live.chat(max_tokens=60, temperature=1, seed=seed), range(8)))
        together = live.metric("fourfold_engine_steps_total") - steps - alone
        assert together < 4 * alone

    def test_a_long_answer_holds_nobody_up(
        self, live: Live, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow_down(monkeypatch)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            long = pool.submit(live.chat, max_tokens=400, **HOT)
            wait_for(lambda: tiny_engine.stats.running)
            assert live.chat(max_tokens=2).status_code == 200
            assert not long.done()
            assert long.result().status_code == 200

    def test_full_queue(self, tiny_checkpoint: Path) -> None:
        with (
            Engine.load(tiny_checkpoint, dtype="float32", max_num_seqs=1, max_waiting=1) as engine,
            live_server(engine) as server,
            concurrent.futures.ThreadPoolExecutor(6) as pool,
        ):
            asked = [pool.submit(server.chat, max_tokens=300, seed=0, temperature=1)]
            wait_for(lambda: engine.stats.running)  # or all six may find the first one waiting still
            asked += [pool.submit(server.chat, max_tokens=300, seed=seed, temperature=1) for seed in range(1, 6)]
            answers = [answer.result() for answer in asked]
        codes = sorted(answer.status_code for answer in answers)
        assert set(codes) == {200, 429} and codes.count(200) >= 2
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"

    def test_sixty_four_clients_with_new_pictures_are_all_answered(self, live: Live, tiny_engine: Engine) -> None:
        """As many as may wait by default."""
        people, encoded = 64, tiny_engine.stats.images_encoded

        def ask(number: int) -> int:
            picture = image_part(data_uri(f"#{number + 1:06x}", (48, 64)))
            return live.chat([picture, text_part("what is it?")]).status_code

        with concurrent.futures.ThreadPoolExecutor(people) as pool:
            assert set(pool.map(ask, range(people))) == {200}
        assert tiny_engine.stats.images_encoded - encoded == people

    def test_leaving_stops_the_answer(self, live: Live, tiny_engine: Engine) -> None:
        body = {"messages": [{"role": "user", "content": "go on"}], "max_tokens": 1000, **HOT}
        for stream in (True, False):
            cancelled = tiny_engine.stats.cancelled
            data = json.dumps({**body, "stream": stream}).encode()
            with socket.create_connection(("127.0.0.1", live.port)) as connection:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n"
                connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + data)
                wait_for(lambda: tiny_engine.stats.running)
            wait_for(lambda before=cancelled: tiny_engine.stats.cancelled == before + 1, 3)
            wait_for(lambda: live.metric("fourfold_http_in_flight") == 1, 3)  # the one that asks

    def test_time_limit_ends_an_answer(self, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        slow_down(monkeypatch)
        monkeypatch.setattr(tiny_engine, "end_ids", frozenset())  # or the answer might end by itself
        with live_server(tiny_engine, limits=ServerLimits(request_seconds=0.2)) as server:
            answer = server.chat(max_tokens=1000, **HOT).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert 0 < answer["usage"]["completion_tokens"] < 900

    def test_shutdown_ends_streams_in_order(self, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        slow_down(monkeypatch)
        monkeypatch.setattr(tiny_engine, "end_ids", frozenset())  # or the answer might end by itself
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1000, "stream": True, **HOT}
        lines: list[str] = []

        def read(url: str) -> None:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as response:
                lines.extend(response.iter_lines())

        with live_server(tiny_engine, grace=0.1) as server:
            reader = threading.Thread(target=read, args=(server.url,))
            reader.start()
            wait_for(lambda: lines)
        reader.join(10)
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
        assert len(events) > 2 and all("choices" in event for event in events[:-1])
        assert events[-1]["error"]["code"] == "shutting_down"
