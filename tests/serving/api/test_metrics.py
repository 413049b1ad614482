"""What the endpoint tells about itself: its models and its metrics."""

import concurrent.futures
from pathlib import Path
from typing import Any

import httpx
import pytest

from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import HOT, Live, data_uri, image_part, live_server, text_part
from tests.serving.engine.conversations import slow_down, wait_for


class TestModels:
    def test_list(self, live: Live) -> None:
        cards = httpx.get(f"{live.url}/v1/models").json()
        assert cards["object"] == "list" and [card["id"] for card in cards["data"]] == ["tiny"]
        assert cards["data"][0]["max_model_len"] == 1024
        assert cards["data"][0]["architecture"] == {
            "input_modalities": ["text", "image"],
            "output_modalities": ["text"],
        }
        assert httpx.get(f"{live.url}/v1/models/tiny").json() == cards["data"][0]


STAGES = ("decode_image", "preprocess", "queue", "vision", "prefill", "decode", "total")


class TestMetrics:
    def test_counts(self, live: Live) -> None:
        names = [
            'fourfold_tokens_total{kind="completion"}',
            'fourfold_http_requests_total{route="/v1/chat/completions",status="200"}',
            'fourfold_answers_total{reason="length"}',
            "fourfold_time_to_first_token_seconds_count",
            *(f'fourfold_stage_seconds_count{{stage="{stage}"}}' for stage in STAGES),
        ]
        before = [live.metric(name) for name in names]
        answer = live.chat([image_part(data_uri()), text_part("x")], max_tokens=5, **HOT).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        grown = [live.metric(name) - old for name, old in zip(names, before, strict=True)]
        assert grown == [5, 1, 1, 1] + [1] * len(STAGES)

    def test_stages_take_time_and_add_up(self, live: Live) -> None:
        def seconds() -> dict[str, float]:
            return {stage: live.metric(f'fourfold_stage_seconds_sum{{stage="{stage}"}}') for stage in STAGES}

        before = seconds()
        live.chat([image_part(data_uri("#123456", (300, 200))), text_part("how long?")], max_tokens=9, **HOT)
        spent = {stage: total - before[stage] for stage, total in seconds().items()}
        assert all(value > 0 for value in spent.values()), spent
        assert sum(spent[stage] for stage in STAGES[1:-1]) <= spent["total"]

    def test_cache_hits_and_misses(self, live: Live) -> None:
        """An image is encoded once, found again behind other words, and not even looked for in a follow-up."""
        names = ["fourfold_images_encoded_total", "fourfold_images_reused_total"]
        cached = 'fourfold_tokens_total{kind="prompt_cached"}'

        def counted(*parts: dict[str, Any]) -> list[float]:
            before = [live.metric(name) for name in [*names, cached]]
            live.chat(list(parts), max_tokens=1)
            return [live.metric(name) - old for name, old in zip([*names, cached], before, strict=True)]

        image = image_part(data_uri("#654321"))
        assert counted(text_part("the car is red."), image)[:2] == [1, 0]
        assert counted(text_part("the dog is lazy."), image)[:2] == [0, 1]
        encoded, reused, read_before = counted(text_part("the dog is lazy."), image, text_part("and now?"))
        assert (encoded, reused) == (0, 0) and read_before > 4

    def test_queue_is_seen_while_it_is_there(self, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        slow_down(monkeypatch)
        with (
            Engine.load(tiny_checkpoint, dtype="float32", device="cpu", max_num_seqs=1) as engine,
            live_server(engine) as server,
            concurrent.futures.ThreadPoolExecutor(3) as pool,
        ):
            engine.end_ids = frozenset()
            answers = [pool.submit(server.chat, max_tokens=60, **HOT) for _ in range(3)]
            # Two may wait before the first of all has begun.
            rows = ("fourfold_requests_waiting", "fourfold_requests_running")
            wait_for(lambda: [server.metric(name) for name in rows] == [2, 1])
            assert server.metric("fourfold_http_in_flight") == 4  # and the one that asks
            assert [answer.result().status_code for answer in answers] == [200] * 3
            assert server.metric("fourfold_requests_waiting") == 0

    def test_unknown_paths_do_not_make_labels(self, live: Live) -> None:
        httpx.get(f"{live.url}/some/scanner/path")
        page = httpx.get(f"{live.url}/metrics").text
        assert "scanner" not in page and 'route="other"' in page
