"""Tools: forced calls on any checkpoint, free ones where the template declares tools, and the turns that follow."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from fourfold.prompts.tools import spell_out_tools
from fourfold.serving.api.tool_calls import CallPiece, CallReader, ForcedCallReader, ToolCallReader
from tests.serving.api.live import Live, data_uri, image_part

COUNT = {
    "type": "object",
    "properties": {"thing": {"$ref": "#/$defs/thing"}, "least": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["thing"],
    "$defs": {"thing": {"enum": ["dog", "cat"]}},
}
ZOOM = {"type": "object", "properties": {"factor": {"enum": [2, 4]}}, "required": ["factor"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "count", "description": "count things", "parameters": COUNT}},
    {"type": "function", "function": {"name": "zoom-in", "parameters": ZOOM, "strict": True}},
    {"type": "function", "function": {"name": "shout"}},
]
SCHEMAS = {"count": COUNT, "zoom-in": ZOOM, "shout": {"type": "object", "maxProperties": 0}}
ASK: list[Any] = [{"role": "user", "content": "how many dogs?"}]


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def choice(live: Live, **fields: Any) -> dict[str, Any]:
    answer = live.chat(**{"messages": ASK, "tools": TOOLS, "max_tokens": 100, "temperature": 1, "seed": 3, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_required_calls_one_of_them(client: openai.OpenAI) -> None:
    called = set()
    for seed in range(12):
        answer = client.chat.completions.create(
            model="tiny", messages=ASK, tools=TOOLS, tool_choice="required", temperature=1.5, seed=seed, max_tokens=100
        )
        assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
        [call] = answer.choices[0].message.tool_calls or []
        assert call.type == "function" and re.fullmatch("call_[0-9a-f]{24}", call.id)
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, {"additionalProperties": False, **SCHEMAS[call.function.name]})
        called.add(call.function.name)
    assert called == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_one_and_its_stream(client: openai.OpenAI, name: str) -> None:
    fields: dict[str, Any] = {
        "model": "tiny",
        "messages": ASK,
        "tools": TOOLS,
        "max_tokens": 100,
        "n": 2,
        "temperature": 1,
        "seed": 1,
        "tool_choice": {"type": "function", "function": {"name": name}},
    }
    whole = client.chat.completions.create(**fields)
    calls: list[dict[str, str]] = [{}, {}]
    reasons = []
    for chunk in client.chat.completions.create(**fields, stream=True):
        [one] = chunk.choices
        assert not one.delta.content
        if one.finish_reason:
            reasons.append(one.finish_reason)
        for piece in one.delta.tool_calls or ():
            assert piece.index == 0 and piece.function is not None
            call = calls[one.index]
            if piece.id:
                assert not call
                call |= {"id": piece.id, "name": piece.function.name or "", "arguments": ""}
            call["arguments"] += piece.function.arguments or ""
    assert reasons == ["tool_calls"] * 2
    for call, of_choice in zip(calls, whole.choices, strict=True):
        [expected] = of_choice.message.tool_calls or []
        assert expected.type == "function" and call["name"] == name == expected.function.name
        assert call["arguments"] == expected.function.arguments
        jsonschema.validate(json.loads(call["arguments"]), SCHEMAS[name])


def test_a_call_that_was_cut_is_no_finished_call(live: Live) -> None:
    cut = choice(live, tool_choice="required", max_tokens=25)
    assert cut["finish_reason"] == "length"
    [call] = cut["message"].get("tool_calls") or [None]
    if call is not None:
        with pytest.raises(json.JSONDecodeError):
            json.loads(call["function"]["arguments"])


def test_none_is_plain_chat(live: Live) -> None:
    plain = live.chat(messages=ASK, max_tokens=8).json()["choices"]
    assert live.chat(messages=ASK, max_tokens=8, tools=TOOLS, tool_choice="none").json()["choices"] == plain


def test_calls_and_results_are_read_as_words(live: Live) -> None:
    """By a template without tools: the conversation in words has as many tokens as the one with tools."""
    call = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": '{"thing": "dog"}'}}
    turns = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [image_part(data_uri()), {"type": "text", "text": "3"}]},
    ]
    words = [
        {"role": "user", "content": "how many dogs?"},
        {"role": "assistant", "content": '{"name": "count", "arguments": {"thing": "dog"}}'},
        {"role": "user", "content": [text("count returned:"), image_part(data_uri()), text("3")]},
    ]
    assert (
        live.chat(messages=turns).json()["usage"]["prompt_tokens"]
        == (live.chat(messages=words).json()["usage"]["prompt_tokens"])
    )


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_tools_are_told_in_the_first_message() -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "be brief"}, *ASK]
    told = spell_out_tools(messages, TOOLS)
    assert told[1:] == ASK and told[0]["content"].startswith("be brief\n") and '"zoom-in"' in told[0]["content"]
    assert [message["role"] for message in spell_out_tools(ASK, TOOLS)] == ["system", "user"]
    assert spell_out_tools(ASK, []) == ASK


class TestAuto:
    def test_only_where_the_template_declares_tools(self, live: Live, declared: Live) -> None:
        for fields in ({}, {"tool_choice": "auto"}):
            refused = live.chat(messages=ASK, tools=TOOLS, **fields)
            assert refused.status_code == 400 and "template" in refused.json()["error"]["message"]
            assert choice(declared, **fields)["finish_reason"] in ("stop", "length")

    def test_the_template_is_given_tools_calls_and_results(self, declared: Live) -> None:
        def tokens(messages: list[Any], **fields: Any) -> int:
            answer = declared.chat(messages=messages, **fields)
            assert answer.status_code == 200, answer.text
            return answer.json()["usage"]["prompt_tokens"]

        call = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": '{"thing": "dog"}'}}
        turns = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ]
        assert tokens(ASK) < tokens(ASK, tools=TOOLS[:1]) < tokens(ASK, tools=TOOLS)
        assert tokens(ASK, tools=TOOLS, tool_choice="none") == tokens(ASK)
        assert tokens([*ASK, *turns]) > tokens(ASK)

    def test_a_form_and_a_free_choice_do_not_go_together(self, declared: Live) -> None:
        refused = declared.chat(messages=ASK, tools=TOOLS, guided_choice=["yes"])
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "tool_choice"
        assert choice(declared, tool_choice="none", guided_choice=["yes"])["message"]["content"] == "yes"

    def test_what_the_model_writes_becomes_calls(self, declared: Live) -> None:
        """Forced to write it, as a model that was trained for it would."""
        written = '<tool_call>\n{"name": "count", "arguments": {"thing": "dog"}}\n</tool_call>'
        body = {"messages": ASK, "tools": TOOLS, "forced_answer": f"Let me count. {written}", "max_tokens": 200}
        answer = declared.chat(**body).json()["choices"][0]
        assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"].strip() == "Let me count."
        [call] = answer["message"]["tool_calls"]
        assert call["function"] == {"name": "count", "arguments": '{"thing": "dog"}'}


def read(reader: CallReader, pieces: list[str], *, whole: bool = True) -> tuple[str, list[tuple[str, str]]]:
    """Words and calls."""
    words, calls = "", {}
    found = [one for piece in pieces for one in reader.push(piece)]
    for one in [*found, *reader.finish(whole=whole)]:
        if isinstance(one, CallPiece):
            name, arguments = calls.get(one.index, (one.name, ""))
            calls[one.index] = (name, arguments + one.arguments)
        else:
            words += one
    return words, [calls[index] for index in sorted(calls)]


CALL = '{"name": "f", "arguments": {"a": "}"}}'
TAGGED = f"<tool_call>{CALL}</tool_call>"
WRITTEN: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "words": ("a dog <b> < tool", "a dog <b> < tool", []),
    "words that end like a call begins": ("a dog <tool_ca", "a dog <tool_ca", []),
    "tagged": (TAGGED, "", [("f", '{"a": "}"}')]),
    "twice, behind words": (f"so: {TAGGED}\n{TAGGED}", "so: ", [("f", '{"a": "}"}')] * 2),
    "llama's": ('{"name": "g", "parameters": {"b": "é"}}', "", [("g", '{"b": "é"}')]),
    "a list": (f"[{CALL}, {CALL}]", "", [("f", '{"a": "}"}')] * 2),
    "no arguments": ('{"name": "g"}', "", [("g", "{}")]),
    "of nobody": ('{"name": "h", "arguments": {}}', '{"name": "h", "arguments": {}}', []),
    "other JSON": ('{"dogs": 3}', '{"dogs": 3}', []),
    "cut": ('<tool_call>{"name": "f", "argu', '{"name": "f", "argu', []),
    "nothing": ("", "", []),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_free_calls_however_the_answer_is_cut(case: str) -> None:
    written, words, calls = WRITTEN[case]
    names = frozenset({"f", "g"})
    for pieces in ([written], list(written), [written[:5], written[5:]]):
        reader = ToolCallReader(names)
        assert read(reader, pieces) == (words, calls)
        assert reader.called == bool(calls)


@pytest.mark.parametrize("end", range(len(CALL) + 1))
def test_a_forced_call_however_it_is_cut(end: int) -> None:
    head = CALL.index('{"a"')
    for pieces in ([CALL[:end]], list(CALL[:end])):
        whole = end == len(CALL)
        expected = ("", [("f", CALL[head : end - whole])]) if end >= head else (CALL[:end], [])
        assert read(ForcedCallReader(), pieces, whole=whole) == expected
