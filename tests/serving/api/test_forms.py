"""Answers in a form, asked for as clients do: the `openai` package, LangChain, vLLM's fields."""

import concurrent.futures
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from fourfold.assistant.grounding import parse
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import HOT, Live, chunks, data_uri, image_part, text_part


class Thing(BaseModel):
    """One thing in a picture."""

    name: str = Field(max_length=10)
    colour: Literal["red", "green"]
    count: int = Field(ge=0, le=99)


class Scene(BaseModel):
    title: str | None = Field(max_length=6)
    things: list[Thing] = Field(max_length=2)


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def tuned(tiny_engine: Engine, adapter: Path) -> Iterator[str]:
    tiny_engine.load_adapter("tuned", adapter)
    yield "tuned"
    tiny_engine.unload_adapter("tuned")


def ask(text: str = "what is it?") -> list[Any]:
    return [{"role": "user", "content": [image_part(data_uri()), text_part(text)]}]


def content(live: Live, **fields: Any) -> str:
    answer = live.chat(**{"max_tokens": 200, **HOT, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    return answer.json()["choices"][0]["message"]["content"]


def test_a_pydantic_model_with_the_openai_package(client: openai.OpenAI, tuned: str) -> None:
    fields: dict[str, Any] = {"messages": ask(), "temperature": 1, "seed": 5, "max_tokens": 300}
    found = []
    for model in ("tiny", tuned):
        answer = client.chat.completions.parse(model=model, response_format=Scene, n=3, **fields)
        found += [choice.message.parsed for choice in answer.choices]
    assert all(isinstance(scene, Scene) for scene in found)
    assert len({scene.model_dump_json() for scene in found if scene}) > 3
    with client.chat.completions.stream(model="tiny", response_format=Scene, **fields) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert streamed == found[0]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_with_structured_output_of_langchain(live: Live, method: Literal["json_schema", "function_calling"]) -> None:
    url = f"{live.url}/v1"
    model = ChatOpenAI(model="tiny", base_url=url, api_key="none", temperature=1, seed=1, max_tokens=300)
    scene = model.with_structured_output(Scene, method=method).invoke(ask())
    assert isinstance(scene, Scene)


def test_any_object(live: Live) -> None:
    """Of a random model: its objects do not end by themselves, but they begin as objects."""
    answer = chunks(live.chat(max_tokens=9, stream=True, response_format={"type": "json_object"}, **HOT))
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in answer)
    assert re.match(r'\{"[^"]|\{"?$|\{\}', text)
    closed = {"type": "object", "additionalProperties": {"enum": [1, 2]}, "maxProperties": 2}
    assert len(json.loads(content(live, guided_json=closed, max_tokens=900))) <= 2


VLLM: dict[str, tuple[dict[str, Any], str]] = {
    "choice": ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
    "guided_choice": ({"guided_choice": ["yes", "no"]}, "yes|no"),
    "regex": ({"structured_outputs": {"regex": "[a-f]{3}"}}, "[a-f]{3}"),
    "guided_regex": ({"guided_regex": "[a-f]{3}"}, "[a-f]{3}"),
    "grammar": ({"structured_outputs": {"grammar": 'root ::= "a" ("b" | "c")'}}, "a[bc]"),
    "guided_grammar": ({"guided_grammar": 'start: "a" ("b" | "c")'}, "a[bc]"),
    "json": ({"structured_outputs": {"json": {"enum": [1, "x"]}}}, '1|"x"'),
    "json as text": ({"structured_outputs": {"json": '{"enum": [1, "x"]}'}}, '1|"x"'),
    "guided_json": ({"guided_json": {"enum": [1, "x"]}, "guided_decoding_backend": "xgrammar"}, '1|"x"'),
    "response_format": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": [1, 2]}}}},
        r"\[1, 2\]",
    ),
    "no white space": (
        {"structured_outputs": {"json": {"const": [1, 2]}, "whitespace_pattern": "", "disable_any_whitespace": True}},
        r"\[1,2\]",
    ),
    "closed": (
        {
            "structured_outputs": {
                "json": {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
                "disable_additional_properties": True,
            }
        },
        r'\{"a": 1\}',
    ),
    "nothing": ({"structured_outputs": None, "guided_json": None, "response_format": {"type": "text"}}, "(?s).*"),
}


@pytest.mark.parametrize("case", VLLM)
def test_forms_as_vllm_takes_them(live: Live, case: str) -> None:
    fields, pattern = VLLM[case]
    if case == "nothing":
        fields = {**fields, "stop": ["e", "a", "\n", " "]}
    assert re.fullmatch(pattern, content(live, **fields))


def test_boxes_are_never_malformed(live: Live, tiny_engine: Engine) -> None:
    """A model that knows no boxes writes them all the same, where it is made to begin one often."""
    brace = tiny_engine.tokenize("{", add_special_tokens=False)[0]
    fields = {"structured_outputs": {"box": True}, "max_tokens": 120, "temperature": 1.0}
    boxes = 0
    for seed in range(6):
        text = live.chat(logit_bias={str(brace): 5.0}, seed=seed, **fields).json()
        written = text["choices"][0]["message"]["content"]
        cut = written.rfind("{") if written.rfind("{") > written.rfind("}") else len(written)  # by max_tokens
        found = parse(written[:cut])
        assert not found.malformed, written
        boxes += len(found.boxes)
    assert boxes > 3


def test_neighbours_and_the_health_check_go_on_while_much_is_compiled(live: Live) -> None:
    large = {"enum": [f"label {number}" for number in range(3000)]}
    bodies: list[dict[str, Any]] = [
        {"guided_json": {"properties": {f"p{number}": {"type": "string"} for number in range(1900)}}},
        {"guided_regex": "(a{1000}){1000}"},
        {"guided_grammar": "start: " + " | ".join(f'"w{number}"' for number in range(100_000))},
        {"guided_json": large},
    ] * 3
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        asked = [pool.submit(live.chat, max_tokens=3, **body) for body in bodies]
        answer = live.chat()
        statuses = {future.result().status_code for future in asked}
    assert answer.status_code == 200
    assert statuses <= {200, 400, 429} and 400 in statuses
    assert time.monotonic() - began < 20
