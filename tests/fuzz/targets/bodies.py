"""Bodies of requests, answered by the whole server over a tiny engine: anything but 2xx and 4xx is a finding."""

import contextlib
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from fourfold.prompts.errors import UserError
from fourfold.serving.api.app import create_app
from fourfold.serving.api.keys import KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Logged, Target
from tests.serving.api.live import data_uri
from tests.tiny import save_tool_checkpoint

_PICTURE = data_uri(size=(8, 6))
_SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0}, "s": {"enum": ["a", "b"]}, "l": {"type": "array"}},
    "required": ["n"],
}
_TOOL = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": _SCHEMA}}
_ASKED = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": _PICTURE, "detail": "low"}},
            {"type": "text", "text": "?"},
        ],
    },
]
_CHAT: tuple[dict[str, Any], ...] = (
    {"messages": _ASKED, "max_tokens": 3, "temperature": 0.5, "seed": 1, "top_p": 0.9, "stop": ["x", "y"]},
    {
        "messages": _ASKED,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 3,
    },
    {
        "messages": _ASKED[1:],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA}},
    },
    {
        "messages": [*_ASKED[:1], {"role": "user", "content": "hi"}],
        "guided_regex": "[a-c]{1,3}",
        "n": 2,
        "temperature": 1,
    },
    {
        "messages": _ASKED,
        "structured_outputs": {"grammar": 'start: "a" | "b" start'},
        "logit_bias": {"5": -100, "6": 2},
    },
    {"messages": _ASKED, "tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "name": "look", "content": "a dog"},
        ],
        "tools": [_TOOL],
        "min_tokens": 1,
        "bad_words": ["no"],
        "stop_token_ids": [4],
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "top_k": 5,
        "min_p": 0.1,
    },
    {
        "messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": "Well"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
        "ignore_eos": True,
        "chat_template_kwargs": {"double_bos": True},
    },
    {"messages": _ASKED, "guided_choice": ["yes", "no"], "user": "somebody", "metadata": {"a": "b"}, "store": False},
    {"messages": _ASKED, "structured_outputs": {"box": True}, "model": "tiny", "forced_answer": "a dog"},
)
_INPUT = [
    {"role": "user", "content": [{"type": "input_image", "image_url": _PICTURE}, {"type": "input_text", "text": "?"}]}
]
_DECISIONS: tuple[dict[str, Any], ...] = (
    {"input": _INPUT, "questions": [{"type": "predicate", "instructions": "there is a dog", "name": "dog"}]},
    {
        "input": [
            {"role": "system", "content": "Be strict."},
            *_INPUT,
            {"role": "assistant", "content": [{"type": "output_text", "text": "I see."}]},
        ],
        "questions": [
            {
                "type": "choice",
                "instructions": "which",
                "choices": [{"value": "a", "description": "A"}, {"value": True}],
            },
            {
                "type": "score",
                "instructions": "how",
                "levels": [{"label": "low"}, {"label": "high", "description": "h"}],
            },
        ],
        "prompt_cache_key": "k",
    },
    {
        "input": [{"role": "user", "content": [{"type": "input_json", "data": {"a": [1, {"b": None}]}}]}],
        "questions": [{"type": "predicate", "instructions": _INPUT[0]["content"]}],
        "model": "tiny",
    },
    {"input": "a text", "questions": [{"type": "predicate", "instructions": "it is short"}]},
)
_RESPONSES: tuple[dict[str, Any], ...] = (
    {"input": "hi", "instructions": "Be brief.", "max_output_tokens": 3},
    {"input": _INPUT, "stream": True, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
    {"input": _INPUT, "text": {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA}}, "temperature": 1},
    {
        "input": [
            {"type": "message", "role": "user", "content": "hi"},
            {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "a dog"},
        ],
        "tools": [{"type": "function", "name": "look", "parameters": _SCHEMA, "strict": True}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "truncation": "disabled",
    },
)
_SOURCE = {"type": "base64", "media_type": "image/png", "data": _PICTURE.partition(",")[2]}
_MESSAGES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "system": "Be brief.", "stop_sequences": ["x"]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": _SOURCE}, {"type": "text", "text": "?"}]}
        ],
        "max_tokens": 3,
        "stream": True,
        "top_k": 3,
        "temperature": 0.5,
        "metadata": {"user_id": "u"},
    },
    {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {"n": 1}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "1", "content": "a dog", "is_error": False}],
            },
        ],
        "max_tokens": 3,
        "tools": [{"name": "look", "description": "looks", "input_schema": _SCHEMA}],
        "tool_choice": {"type": "tool", "name": "look"},
    },
    {
        "messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": "Well"}],
        "max_tokens": 2,
        "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}, "effort": "low"},
        "thinking": {"type": "disabled"},
    },
)


class Served:
    """A server in this process; what it fails on is raised here."""

    def __init__(self, directory: Path) -> None:
        checkpoint = directory / "checkpoint"
        if not checkpoint.exists():
            save_tool_checkpoint(checkpoint)
        self._open = contextlib.ExitStack()
        engine = self._open.enter_context(
            Engine.load(checkpoint, dtype="float32", device="cpu", name="tiny", max_num_seqs=4)
        )
        limits = ServerLimits(max_tokens=3, default_max_tokens=2, choices=3)
        app = create_app(engine, keys=KeyRing(), limits=limits)
        self._client = self._open.enter_context(TestClient(app, base_url="http://localhost"))
        self._logged = Logged()
        logging.getLogger("fourfold").addHandler(self._logged)

    def close(self) -> None:
        logging.getLogger("fourfold").removeHandler(self._logged)
        self._open.close()

    def ask(self, path: str, body: bytes) -> None:
        """Raises UserError: the request was refused. Anything else: the server failed."""
        self._logged.errors.clear()
        answer = self._client.post(path, content=body, headers={"content-type": "application/json"})
        if self._logged.errors:
            raise self._logged.errors[0]
        if answer.status_code >= 500:
            raise AssertionError(f"{answer.status_code}: {answer.text[:200]}")
        if answer.status_code >= 400:
            message = answer.json()["error"]["message"]
            raise UserError(message)


_served = cache(Served)  # one for all that are asked in one directory


def _target(directory: Path, path: str, bodies: tuple[dict[str, Any], ...]) -> Target:
    served = _served(directory)
    seeds = [json.dumps(body).encode() for body in bodies]
    return Target(seeds, lambda data: served.ask(path, data), Mutator.json, close=served.close)


def chat(directory: Path) -> Target:
    return _target(directory, "/v1/chat/completions", _CHAT)


def decisions(directory: Path) -> Target:
    return _target(directory, "/v1/decisions", _DECISIONS)


def responses(directory: Path) -> Target:
    return _target(directory, "/v1/responses", _RESPONSES)


def messages(directory: Path) -> Target:
    return _target(directory, "/v1/messages", _MESSAGES)
