"""What the endpoint refuses, and how it says so."""

import httpx
import pytest

from tests.serving.api.live import Live, image_part

TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
REFUSED = {
    "no messages": ({"messages": None}, "messages"),
    "empty messages": ({"messages": []}, "messages"),
    "result of no call": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
    "a call with half its arguments": (
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
                {"role": "user", "content": "go on"},
            ]
        },
        "messages.0.tool_calls.0.function.arguments",
    ),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content"),
    "audio part": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages.0.content.0",
    ),
    "image from the assistant": (
        {"messages": [{"role": "assistant", "content": [image_part("data:")]}]},
        "messages.0.content.0",
    ),
    "image without url": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content.0.image_url.url",
    ),
    "tools that the template has no words for": (TOOLS, "tools"),
    "a tool that is none of those": (
        {**TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    "a call of nothing": ({"tool_choice": "required"}, "tool_choice"),
    "two tools of one name": ({"tools": TOOLS["tools"] * 2, "tool_choice": "required"}, "tools"),
    "a tool without a name": ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
    "functions": ({"functions": [{"name": "f"}]}, "functions"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "a format of no name": ({"response_format": {"type": "yaml"}}, "response_format.type"),
    "a schema that nothing fits": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "dog"}}}},
        "response_format.json_schema.schema",
    ),
    "two forms": ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    "two forms in one": ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
    "frequency_penalty": ({"frequency_penalty": 2.1}, "frequency_penalty"),
    "presence_penalty": ({"presence_penalty": -3}, "presence_penalty"),
    "logit_bias": ({"logit_bias": {"5": 101.0}}, "logit_bias.5"),
    "logit_bias of a word": ({"logit_bias": {"dog": 1}}, "logit_bias.dog"),
    "logit_bias of no token": ({"logit_bias": {"100000": 1}}, "logit_bias"),
    "stop_token_ids of no token": ({"stop_token_ids": [-1]}, "stop_token_ids"),
    "top_k": ({"top_k": -2}, "top_k"),
    "half a top_k": ({"top_k": 2.5}, "top_k"),
    "min_p": ({"min_p": 1.1}, "min_p"),
    "min_tokens": ({"min_tokens": 5}, "min_tokens"),
    "an empty bad word": ({"bad_words": ["dog", " "]}, "bad_words"),
    "no end": ({"ignore_eos": True, "guided_choice": ["yes", "no"]}, "ignore_eos"),
    "no choice": ({"guided_choice": []}, "guided_choice"),
    "an empty choice": ({"structured_outputs": {"choice": ["yes", ""]}}, "structured_outputs.choice.1"),
    "a regular expression": ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex"),
    "a grammar": ({"guided_grammar": "dog"}, "guided_grammar"),
    "structural tag": ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
    "beam search": ({"use_beam_search": True}, "use_beam_search"),
    "special tokens": ({"skip_special_tokens": False}, "skip_special_tokens"),
    "going on with an answer and opening one": ({"continue_final_message": True}, "add_generation_prompt"),
    "going on with a question": ({"continue_final_message": True, "add_generation_prompt": False}, "messages"),
    "logprobs of the prompt": ({"prompt_logprobs": 0}, "prompt_logprobs"),
    "audio": ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, "modalities"),
    "web search": ({"web_search_options": {}}, "web_search_options"),
    "hot": ({"temperature": 2.5}, "temperature"),
    "text for a number": ({"temperature": "1"}, "temperature"),
    "zero tokens": ({"max_tokens": 0}, "max_tokens"),
    "top_p": ({"top_p": 0}, "top_p"),
    "n": ({"n": 9}, "n"),
    "seventeen stops": ({"stop": list("abcdefghijklmnopq")}, "stop"),
    "empty stop": ({"stop": [""]}, "stop"),
    "lonely top_logprobs": ({"top_logprobs": 1}, "top_logprobs"),
    "many logprobs": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "lonely stream_options": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "long seed": ({"seed": 2**70}, "seed"),
    "text far too long": ({"messages": [{"role": "user", "content": "a" * 10**5}]}, "messages"),
    "remote image": (
        {"messages": [{"role": "user", "content": [image_part("https://example.com/x.png")]}]},
        "messages.0.content.0",
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    @pytest.mark.parametrize("stream", [False, True])
    def test_400_names_the_field(self, live: Live, case: str, stream: bool) -> None:
        fields, param = REFUSED[case]
        response = live.chat(stream=stream, **fields) if case != "lonely stream_options" else live.chat(**fields)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param and len(error["message"]) > 10

    def test_values_that_ask_for_nothing_are_taken(self, live: Live) -> None:
        nothing = {"top_k": -1, "min_p": 0.0, "min_tokens": 0, "ignore_eos": False, "guided_json": None, "best_of": 1}
        nothing |= {"tools": [], "logit_bias": {}, "frequency_penalty": 0, "add_generation_prompt": True, "user": "me"}
        assert live.chat(**nothing).json()["choices"] == live.chat().json()["choices"]

    def test_too_long_for_the_context(self, live: Live) -> None:
        error = live.chat("word " * 2000).json()["error"]
        assert error["code"] == "context_length_exceeded" and "1024" in error["message"]

    def test_unknown_model(self, live: Live) -> None:
        response = live.chat(model="gpt-4o")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
        assert "tiny" in response.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("content", "kind", "status"),
        [
            (b"{", "application/json", 400),
            (b"", "application/json", 400),
            (b"[1]", "application/json", 400),
            (b"\xff\xfe", "application/json", 400),
            (b"{}", "text/plain", 415),
            (b"a=1", "application/x-www-form-urlencoded", 415),
            (b"{}", "multipart/form-data; boundary=x", 415),
        ],
    )
    def test_not_json(self, live: Live, content: bytes, kind: str, status: int) -> None:
        url = f"{live.url}/v1/chat/completions"
        response = httpx.post(url, content=content, headers={"content-type": kind})
        assert response.status_code == status and response.json()["error"]["message"]

    def test_routes(self, live: Live) -> None:
        for method, path, status in (
            ("GET", "/", 404),
            ("POST", "/v1/completions", 404),
            ("GET", "/v1/chat/completions", 405),
            ("GET", "/docs", 404),
            ("GET", "/v1/models/nope", 404),
        ):
            response = httpx.request(method, live.url + path)
            assert response.status_code == status and response.json()["error"]["message"]
