"""POST /v1/messages and its count_tokens with the `anthropic` client, beside what chat completions answer."""

import json
from typing import Any

import anthropic
import httpx
import pytest

from tests.serving.api.live import HOT, PLAIN, Live, data_uri, image_part, text_part

SEED: dict[str, Any] = {"extra_body": HOT}
SOURCE = {"type": "base64", "media_type": "image/png", "data": data_uri().partition(",")[2]}
PICTURE: list[Any] = [{"type": "image", "source": SOURCE}, {"type": "text", "text": "what?"}]
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(live: Live) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)


def text_of(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


class TestWhole:
    def test_is_what_chat_answers(self, client: anthropic.Anthropic, live: Live) -> None:
        chat = live.chat(max_tokens=12, **HOT).json()
        message = client.messages.create(model="tiny", messages=HELLO, max_tokens=12, **SEED)
        assert text_of(message) == chat["choices"][0]["message"]["content"]
        assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
        usage = message.usage
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == chat["usage"]["prompt_tokens"]
        assert usage.output_tokens == 12 and message.model == "tiny" and message.role == "assistant"
        anthropic.types.Message.model_validate(message.model_dump(), strict=True)

    def test_stop_sequence_is_named(self, client: anthropic.Anthropic, live: Live) -> None:
        text = live.chat(max_tokens=12, **HOT).json()["choices"][0]["message"]["content"]
        stop = text[4:7]
        message = client.messages.create(
            model="tiny", messages=HELLO, max_tokens=99, stop_sequences=["not in it", stop], **SEED
        )
        assert text_of(message) == text[: text.index(stop)]
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)

    def test_picture_system_and_turns(self, client: anthropic.Anthropic, live: Live) -> None:
        messages = [
            {"role": "system", "content": [text_part("be brief")]},
            {"role": "user", "content": [image_part(data_uri()), text_part("what?")]},
            {"role": "assistant", "content": "a colour"},
            {"role": "user", "content": "which?"},
        ]
        chat = live.chat(messages=messages, **HOT).json()
        turns: list[Any] = [
            {"role": "user", "content": PICTURE},
            {"role": "assistant", "content": "a colour"},
            {"role": "user", "content": "which?"},
        ]
        system: list[Any] = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
        message = client.messages.create(model="tiny", messages=turns, system=system, max_tokens=4, **SEED)
        assert text_of(message) == chat["choices"][0]["message"]["content"]
        count = client.messages.count_tokens(model="tiny", messages=turns, system=system)
        assert count.input_tokens == chat["usage"]["prompt_tokens"]


class TestStream:
    def test_events_are_those_of_the_api(self, client: anthropic.Anthropic) -> None:
        whole = client.messages.create(model="tiny", messages=HELLO, max_tokens=12, **SEED)
        events = list(client.messages.create(model="tiny", messages=HELLO, max_tokens=12, stream=True, **SEED))
        kinds = [event.type for event in events]
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert set(kinds[2:-3]) == {"content_block_delta"}
        for event in events:
            type(event).model_validate(event.model_dump(), strict=True)
        ending = events[-2]
        assert ending.type == "message_delta" and ending.delta.stop_reason == "max_tokens"
        assert ending.usage.output_tokens == whole.usage.output_tokens

    def test_helper_that_gathers_a_stream(self, client: anthropic.Anthropic) -> None:
        whole = client.messages.create(model="tiny", messages=HELLO, max_tokens=12, **SEED)
        with client.messages.stream(model="tiny", messages=HELLO, max_tokens=12, **SEED) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert text == text_of(final) == text_of(whole)
        assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 12
        told = final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0)
        assert told == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["red", "blue"]}},
    "required": ["name"],
    "additionalProperties": False,
}
TOOL: list[Any] = [{"name": "paint", "description": "paints", "input_schema": SCHEMA}]


class TestForms:
    @pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "paint"}])
    def test_a_call(self, client: anthropic.Anthropic, choice: Any) -> None:
        fields: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 60}
        fields |= {"tools": TOOL, "tool_choice": choice}
        message = client.messages.create(**fields)
        (block,) = message.content
        assert block.type == "tool_use" and block.name == "paint" and message.stop_reason == "tool_use"
        assert block.input in ({"name": "red"}, {"name": "blue"})
        with client.messages.stream(**fields) as stream:
            final = stream.get_final_message()
        (streamed,) = final.content
        assert streamed.type == "tool_use" and streamed.input == block.input and final.stop_reason == "tool_use"

    def test_answer_in_a_schema(self, client: anthropic.Anthropic) -> None:
        form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
        message = client.messages.create(model="tiny", messages=HELLO, max_tokens=60, output_config=form)
        assert json.loads(text_of(message)) in ({"name": "red"}, {"name": "blue"})

    def test_answer_that_the_client_begins(self, client: anthropic.Anthropic, live: Live) -> None:
        turns: list[Any] = [*HELLO, {"role": "assistant", "content": "I see the"}]
        chat = live.chat(messages=turns, continue_final_message=True, add_generation_prompt=False, **HOT).json()
        message = client.messages.create(model="tiny", messages=turns, max_tokens=4, **SEED)
        assert text_of(message) == chat["choices"][0]["message"]["content"]
        count = client.messages.count_tokens(model="tiny", messages=turns)
        assert count.input_tokens == chat["usage"]["prompt_tokens"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no length": ({"max_tokens": None}, "max_tokens"),
    "no messages": ({"messages": []}, "messages"),
    "thinking": ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    "container": ({"container": "c"}, "container"),
    "servers": ({"mcp_servers": [{"url": "https://a.example"}]}, "mcp_servers"),
    "chat's stop": ({"stop": "x"}, "stop"),
    "two answers": ({"n": 2}, "n"),
    "code": ({"tools": [{"type": "code_execution_20250522", "name": "code_execution"}]}, "tools.0.type"),
    "document": (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
        "messages.0.content.0",
    ),
    "uploaded image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
        "messages.0.content.0.source",
    ),
    "remote image behind a system prompt": (
        {
            "system": "x",
            "messages": [
                *HELLO,
                {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a.example"}}]},
            ],
        },
        "messages.1.content.0",
    ),
    "image of the assistant": (
        {"messages": [*HELLO, {"role": "assistant", "content": PICTURE}]},
        "messages.1.content.0",
    ),
    "a name with a space": ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name"),
    "no schema": ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    "wrong schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "banana"}}}},
        "output_config.format.schema",
    ),
    "hot": ({"temperature": 3}, "temperature"),
    "many stops": ({"stop_sequences": list("abcdefghijklmnopq")}, "stop_sequences"),
    "empty stop": ({"stop_sequences": [""]}, "stop_sequences"),
    "long": ({"messages": [{"role": "user", "content": "a" * 10**5}]}, "messages"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    def test_names_the_field_as_the_client_wrote_it(self, live: Live, case: str) -> None:
        fields, param = REFUSED[case]
        answer = httpx.post(f"{live.url}/v1/messages", json={"messages": HELLO, "max_tokens": 4, **fields})
        assert answer.status_code == 400, answer.text
        body = answer.json()
        assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
        assert body["error"]["param"] == param and len(body["error"]["message"]) > 10, body

    def test_errors_are_the_clients_own(self, keyed: Live, live: Live) -> None:
        client = anthropic.Anthropic(base_url=keyed.url, api_key="wrong-key-0123456789", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError) as refused:
            client.messages.create(model="tiny", messages=HELLO, max_tokens=1)
        assert refused.value.type == "authentication_error"
        known = client.with_options(api_key=PLAIN)
        message = known.messages.create(
            model="tiny", messages=HELLO, max_tokens=1, extra_headers={"x-request-id": "mine-2"}
        )
        assert message._request_id == "mine-2"
        with pytest.raises(anthropic.NotFoundError) as unknown:
            known.messages.count_tokens(model="claude", messages=HELLO)
        assert unknown.value.type == "not_found_error"
        with pytest.raises(anthropic.AuthenticationError):
            client.messages.count_tokens(model="tiny", messages=HELLO)
