"""Clients that people really use, against the live server: the `openai` package and LangChain's standard suite."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from PIL import Image

from fourfold.serving.api.keys import collect_keys
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import Live, data_uri, image_part, live_server, text_part
from tests.serving.engine.conversations import wait_for

KEY = "client-key-0123456789"
ASK: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def keyed(tiny_engine: Engine) -> Iterator[Live]:
    with live_server(tiny_engine, keys=collect_keys([KEY], None, {})) as server:
        yield server


@pytest.fixture
def client(keyed: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


class TestOpenAI:
    def test_answer(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=5)
        assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None and answer.usage.completion_tokens == 5

    def test_stream(self, client: openai.OpenAI) -> None:
        fields: dict[str, Any] = {"model": "tiny", "messages": ASK, "max_tokens": 9, "temperature": 1, "seed": 3}
        whole = client.chat.completions.create(**fields).choices[0].message.content
        chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 9

    def test_stream_helper(self, client: openai.OpenAI) -> None:
        fields: dict[str, Any] = {"model": "tiny", "messages": ASK, "temperature": 1, "seed": 3, "logprobs": True}
        text = client.chat.completions.create(**fields, max_tokens=20).choices[0].message.content or ""
        # It takes an answer that was cut by max_tokens for an error.
        with client.chat.completions.stream(**fields, stop=text[8:10]) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion()
        assert "content.done" in kinds and "logprobs.content.delta" in kinds
        assert final.choices[0].message.content == text[: text.index(text[8:10])]

    def test_leaving_a_stream(self, client: openai.OpenAI, tiny_engine: Engine) -> None:
        cancelled = tiny_engine.stats.cancelled
        with client.chat.completions.create(model="tiny", messages=ASK, max_tokens=1000, stream=True) as stream:
            next(iter(stream))
        wait_for(lambda: tiny_engine.stats.cancelled == cancelled + 1, 3)

    def test_images(self, client: openai.OpenAI) -> None:
        content: Any = [image_part(data_uri(kind=kind)) for kind in ("PNG", "JPEG", "WEBP", "GIF")]
        question = {"role": "user", "content": [*content, text_part("what are these?")]}
        answer = client.chat.completions.create(model="tiny", messages=[question], max_tokens=3)  # type: ignore[list-item]
        assert answer.usage is not None and answer.usage.prompt_tokens > 16

    def test_async(self, keyed: Live) -> None:
        async def ask() -> list[str | None]:
            async with openai.AsyncOpenAI(base_url=f"{keyed.url}/v1", api_key=KEY) as client:

                async def one(seed: int) -> str | None:
                    answer = await client.chat.completions.create(
                        model="tiny", messages=ASK, max_tokens=8, temperature=1, seed=seed
                    )
                    return answer.choices[0].message.content

                texts = await asyncio.gather(*(one(seed) for seed in range(8)))
                stream = await client.chat.completions.create(
                    model="tiny", messages=ASK, max_tokens=8, temperature=1, seed=0, stream=True
                )
                pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
                return [*texts, "".join(pieces)]

        texts = asyncio.run(ask())
        assert len(set(texts)) == 8 and texts[0] == texts[8]

    def test_models(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "fourfold"

    def test_errors_are_the_clients_own(self, client: openai.OpenAI, keyed: Live) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-4o", messages=ASK)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="tiny", messages=ASK, functions=[{"name": "f"}])
        assert bad.value.param == "functions"
        with (
            pytest.raises(openai.AuthenticationError),
            openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="other-key-0123456789") as stranger,
        ):
            stranger.models.list()

    def test_retries_when_busy(self, tiny_engine: Engine, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        keys.write_text(f"{KEY} per-minute=60\n")
        with (
            live_server(tiny_engine, keys=collect_keys([], keys, {})) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client,
        ):
            with pytest.raises(openai.RateLimitError):
                for _ in range(100):
                    client.chat.completions.create(model="tiny", messages=ASK, max_tokens=1)
            patient = client.with_options(max_retries=2)  # waits as long as Retry-After says
            assert patient.chat.completions.create(model="tiny", messages=ASK, max_tokens=1).choices


class TestLangChain(ChatModelIntegrationTests):
    """LangChain's standard tests of a chat model, on a checkpoint whose template declares tools.

    Its random model ends strings since their closing quote is made likely. What it cannot know is expected to fail,
    with a reason at each test; test_tools.py has the same calls with what can be known of them. Skipped, by the suite
    itself, because of its properties:

    - JSON mode (1): it asks a model in words for an object with certain keys, which random weights do not understand;
      `json_object` is tested in test_forms.py.
    - audio and PDF (3): the models read images only.
    - images by URL (a part of one): no URL is fetched unless an operator allows its host; tests/serving/api/attacks
      covers that. The image that the suite downloads is replaced by one made here, since tests use no network.
    - recorded traffic, `test_stream_time` (1): the server is live, nothing is recorded.
    """

    url = ""

    quote = 0

    @pytest.fixture(autouse=True)
    def _server(self, declared: Live, tool_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (90, 60), "teal").save(buffer, "PNG")
        offline = SimpleNamespace(get=lambda *_, **__: SimpleNamespace(content=buffer.getvalue()))
        monkeypatch.setattr("langchain_tests.integration_tests.chat_models.httpx", offline)
        type(self).url = f"{declared.url}/v1"
        [type(self).quote] = tool_engine.tokenize('"', add_special_tokens=False)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "tiny",
            "base_url": self.url,
            "api_key": "none",
            "max_tokens": 160,
            "temperature": 1,
            "seed": 3,
            "logit_bias": {self.quote: 5},
            "presence_penalty": 2,
            "stream_usage": True,
            # LangChain's own is shared by all models, but its connections die with the event loop of each test.
            "http_async_client": openai.DefaultAsyncHttpxClient(),
        }

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "tuned"

    @pytest.mark.xfail(reason="random weights do not read the 3 that the question tells", strict=True)
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason="random weights do not read the 3 that the question tells", strict=True)
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason="random weights do not read the name that the question tells", strict=True)
    def test_unicode_tool_call_integration(self, model: BaseChatModel, **options: Any) -> None:
        super().test_unicode_tool_call_integration(model, **options)

    @pytest.mark.xfail(reason="random weights call nothing without being told to", strict=True)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    def test_images_reach_the_model(self, model: BaseChatModel) -> None:
        """Beyond the suite, which does not look at the answer to an image."""

        def tokens(*parts: dict[str, Any]) -> int:
            usage = model.invoke([HumanMessage([*parts, text_part("what is it?")])]).usage_metadata
            assert usage is not None
            return usage["input_tokens"]

        block = {"type": "image", "base64": data_uri().partition(",")[2], "mime_type": "image/png"}
        assert tokens(block) == tokens(image_part(data_uri())) == tokens() + 4
