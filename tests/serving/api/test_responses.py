"""POST /v1/responses with the `openai` client, beside what chat completions answer to the same."""

from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.serving.api.live import HOT, PLAIN, Live, data_uri, image_part, text_part

SEED = {"extra_body": {"seed": HOT["seed"]}, "temperature": HOT["temperature"]}
PICTURE = [{"type": "input_image", "image_url": data_uri(), "detail": "auto"}, {"type": "input_text", "text": "what?"}]
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def client(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def chat_text(live: Live, content: Any = "hello", **fields: Any) -> str:
    return live.chat(content, **{**HOT, **fields}).json()["choices"][0]["message"]["content"]


class TestWhole:
    def test_is_what_chat_answers(self, client: openai.OpenAI, live: Live) -> None:
        chat = live.chat(max_tokens=12, **HOT).json()
        response = client.responses.create(model="tiny", input="hello", max_output_tokens=12, **SEED)
        assert response.output_text == chat["choices"][0]["message"]["content"]
        assert response.usage is not None
        assert response.usage.input_tokens == chat["usage"]["prompt_tokens"]
        assert (response.usage.output_tokens, response.usage.total_tokens) == (12, chat["usage"]["total_tokens"])
        assert response.status == "incomplete" and response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.object == "response" and response.model == "tiny" and response.temperature == 1
        Response.model_validate(response.model_dump(), strict=True)

    def test_stopped_answer_is_complete(self, client: openai.OpenAI, live: Live) -> None:
        stop = chat_text(live, max_tokens=12)[4:7]
        body = {"seed": HOT["seed"], "stop": stop}
        response = client.responses.create(model="tiny", input="hello", temperature=1, extra_body=body)
        assert response.status == "completed" and response.output_text == chat_text(live, max_tokens=99, stop=stop)

    def test_picture_instructions_and_turns(self, client: openai.OpenAI, live: Live) -> None:
        messages = [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [image_part(data_uri()), text_part("what?")]},
            {"role": "assistant", "content": [text_part("a colour")]},
            {"role": "user", "content": "which?"},
        ]
        turns: list[Any] = [
            {"role": "user", "content": PICTURE},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a colour"}]},
            {"role": "user", "content": "which?"},
        ]
        response = client.responses.create(
            model="tiny", input=turns, instructions="be brief", max_output_tokens=4, **SEED
        )
        assert response.output_text == chat_text(live, messages=messages)
        assert response.instructions == "be brief"

    def test_an_answer_goes_back_as_it_came(self, client: openai.OpenAI) -> None:
        first = client.responses.create(model="tiny", input=[{"role": "user", "content": PICTURE}])  # type: ignore[list-item]
        turns: list[Any] = [{"role": "user", "content": PICTURE}, *first.output, {"role": "user", "content": "more"}]
        second = client.responses.create(model="tiny", input=turns, max_output_tokens=2)
        assert second.usage is not None and first.usage is not None
        assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens - 3

    def test_logprobs(self, client: openai.OpenAI, live: Live) -> None:
        response = client.responses.create(
            model="tiny",
            input="hello",
            max_output_tokens=4,
            include=["message.output_text.logprobs"],
            top_logprobs=2,
        )
        (message,) = response.output
        assert message.type == "message" and message.content[0].type == "output_text"
        expected = live.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
        got = [token.model_dump() for token in message.content[0].logprobs or []]
        for mine, theirs in zip(got, expected, strict=True):
            assert (mine["token"], mine["bytes"]) == (theirs["token"], theirs["bytes"])
            assert mine["logprob"] == pytest.approx(theirs["logprob"], abs=1e-4)
            assert len(mine["top_logprobs"]) == 2


class TestStream:
    def test_events_are_those_of_the_api(self, client: openai.OpenAI) -> None:
        fields: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 12, **SEED}
        whole = client.responses.create(**fields)
        events = list(client.responses.create(**fields, stream=True))
        kinds = [event.type for event in events]
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
        assert set(kinds[4:-4]) == {"response.output_text.delta"}
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta")
        last = events[-1]
        assert last.type == "response.incomplete" and last.response.output_text == whole.output_text
        assert last.response.usage is not None and whole.usage is not None
        assert last.response.usage.output_tokens == whole.usage.output_tokens
        for event in events:
            _EVENT.validate_python(event.model_dump(), strict=True)

    def test_helper_that_gathers_a_stream(self, client: openai.OpenAI, live: Live) -> None:
        stop = chat_text(live, max_tokens=12)[4:7]
        body = {"seed": HOT["seed"], "stop": stop}
        with client.responses.stream(model="tiny", input="hello", temperature=1, extra_body=body) as stream:
            for _ in stream:
                pass
            final = stream.get_final_response()
        assert final.status == "completed" and final.output_text == chat_text(live, max_tokens=99, stop=stop)


class Colour(BaseModel):
    name: Literal["red", "blue"]


TOOL: dict[str, Any] = {
    "type": "function",
    "name": "paint",
    "parameters": {**Colour.model_json_schema(), "additionalProperties": False},
    "strict": True,
}


class TestForms:
    def test_answer_in_a_schema(self, client: openai.OpenAI) -> None:
        response = client.responses.parse(model="tiny", input="hello", text_format=Colour)
        assert response.output_parsed is not None and response.output_parsed.name in ("red", "blue")
        assert response.status == "completed"

    def test_a_call_goes_there_and_back(self, client: openai.OpenAI) -> None:
        fields: dict[str, Any] = {"model": "tiny", "input": "hello", "tools": [TOOL], "tool_choice": "required"}
        (call,) = client.responses.create(**fields).output
        assert call.type == "function_call" and call.name == "paint"
        assert Colour.model_validate_json(call.arguments)
        named = client.responses.create(**{**fields, "tool_choice": {"type": "function", "name": "paint"}})
        assert [item.type for item in named.output] == ["function_call"]

    def test_a_call_as_events(self, client: openai.OpenAI) -> None:
        fields: dict[str, Any] = {"model": "tiny", "input": "hello", "tools": [TOOL], "tool_choice": "required"}
        (whole,) = client.responses.create(**fields).output
        events = list(client.responses.create(**fields, stream=True))
        for event in events:
            _EVENT.validate_python(event.model_dump(), strict=True)
        last = events[-1]
        assert last.type == "response.completed" and whole.type == "function_call"
        (call,) = last.response.output
        assert call.type == "function_call" and call.arguments == whole.arguments
        pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert "".join(pieces) == whole.arguments
        assert [event.type for event in events if event.type.endswith("done")] == [
            "response.function_call_arguments.done",
            "response.output_item.done",
        ]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "earlier response": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "conversation": ({"conversation": "conv_1"}, "conversation"),
    "stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "background": ({"background": True}, "background"),
    "truncation": ({"truncation": "auto"}, "truncation"),
    "two answers": ({"n": 2}, "n"),
    "chat's messages": ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
    "chat's length": ({"max_tokens": 4}, "max_tokens"),
    "no input": ({"input": None}, "input"),
    "nothing in the input": ({"input": []}, "input"),
    "input of numbers": ({"input": [1]}, "input.0"),
    "thought": ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input.0"),
    "reference": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
    "file": ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0"),
    "uploaded image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input.0.content.0.image_url",
    ),
    "remote image": (
        {
            "instructions": "x",
            "input": [
                {"role": "user", "content": [PICTURE[1], {"type": "input_image", "image_url": "https://a.example"}]}
            ],
        },
        "input.0.content.1",
    ),
    "image of the assistant": ({"input": [{"role": "assistant", "content": PICTURE}]}, "input.0.content.0"),
    "search": ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    "a function without a name": ({"tools": [{"type": "function"}]}, "tools.0.name"),
    "no schema": ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    "wrong schema": (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "banana"}}}},
        "text.format.schema",
    ),
    "hot": ({"temperature": 3}, "temperature"),
    "no tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
    "long": ({"input": "a" * 10**5}, "input"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    @pytest.mark.parametrize("stream", [False, True])
    def test_names_the_field_as_the_client_wrote_it(self, live: Live, case: str, stream: bool) -> None:
        fields, param = REFUSED[case]
        body = {"input": "hello", "stream": stream, **fields}
        answer = httpx.post(f"{live.url}/v1/responses", json=body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param and len(error["message"]) > 10, error

    def test_unknown_model(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="no such model"):
            client.responses.create(model="gpt", input="x")

    def test_key_and_id_of_the_request(self, keyed: Live) -> None:
        client = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong-key-0123456789", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.responses.create(model="tiny", input="x")
        response = client.with_options(api_key=PLAIN).responses.create(
            model="tiny", input="x", max_output_tokens=1, extra_headers={"x-request-id": "mine-1"}
        )
        assert response._request_id == "mine-1"
