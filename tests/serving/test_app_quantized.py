"""Low-bit language models behind the endpoint: they answer, whole and streamed, nearly as the model they come from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.serving.engine.engine import Engine
from tests.serving.live import HOT, Live, chunks, data_uri, image_part, live_server, text_part


@pytest.fixture(scope="module", params=["4bit", "8bit"])
def quantised(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Iterator[Live]:
    with (
        Engine.load(tiny_checkpoint, quantization=request.param, dtype="float32", device="cpu") as engine,
        live_server(engine) as server,
    ):
        yield server


def test_answers_whole_and_streamed(quantised: Live, live: Live) -> None:
    content = [image_part(data_uri("green")), text_part("what is it?")]
    whole = quantised.chat(content, max_tokens=10, **HOT).json()
    assert whole["usage"]["completion_tokens"] == 10
    events = chunks(quantised.chat(content, max_tokens=10, stream=True, **HOT))
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == whole["choices"][0]["message"]["content"]

    def first(server: Live) -> float:
        answer = server.chat(content, logprobs=True, max_tokens=1).json()
        return answer["choices"][0]["logprobs"]["content"][0]["logprob"]

    # A little off, and off: otherwise nothing was rounded.
    assert 1e-6 < abs(first(quantised) - first(live)) < 0.5
