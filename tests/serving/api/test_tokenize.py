"""/tokenize and /detokenize against the checkpoint's own tokenizer, and the answers' prompts."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from tests.serving.api.live import HOT, PLAIN, Live, bearer, data_uri, image_part, text_part


def post(live: Live, route: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{live.url}/{route}", json=body, timeout=30)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


HELLO = [{"role": "user", "content": "x"}]
TEXT = "Where is the ball? Größe 日本 🙂\n"


@pytest.mark.parametrize("special", [True, False])
def test_text_there_and_back(live: Live, tokenizer: Any, special: bool) -> None:
    body = post(live, "tokenize", prompt=TEXT, add_special_tokens=special, return_token_strs=True).json()
    assert body["tokens"] == tokenizer(TEXT, add_special_tokens=special)["input_ids"]
    assert body["token_strs"] == tokenizer.convert_ids_to_tokens(body["tokens"])
    assert (body["count"], body["max_model_len"]) == (len(body["tokens"]), 1024)
    text = post(live, "detokenize", tokens=body["tokens"], model="tiny").json()["prompt"]
    assert text == tokenizer.decode(body["tokens"])
    assert special or text == TEXT


def test_messages_are_the_prompt_of_their_answer(live: Live) -> None:
    messages = [{"role": "user", "content": [image_part(data_uri()), text_part("what?")]}]
    body = post(live, "tokenize", messages=messages).json()
    assert body["count"] == live.chat(messages=messages, **HOT).json()["usage"]["prompt_tokens"]
    assert body["token_strs"] is None


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "x", "messages": HELLO}, "prompt"),
        ("tokenize", {"prompt": 1}, "prompt"),
        ("tokenize", {"prompt": "x" * 1_000_001}, "prompt"),
        (
            "tokenize",
            {"messages": [{"role": "user", "content": "x"}], "add_special_tokens": True},
            "add_special_tokens",
        ),
        (
            "tokenize",
            {"messages": [{"role": "user", "content": [image_part("file:///etc/passwd")]}]},
            "messages.0.content.0",
        ),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": [10**9]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens.0"),
        ("detokenize", {"tokens": ["1"]}, "tokens.0"),
    ],
)
def test_refusals(live: Live, route: str, body: dict[str, Any], param: str) -> None:
    answer = post(live, route, **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_behind_the_key(keyed: Live) -> None:
    for route, body in (("tokenize", {"prompt": "x"}), ("detokenize", {"tokens": [1]})):
        assert post(keyed, route, **body).status_code == 401
        assert httpx.post(f"{keyed.url}/{route}", json=body, headers=bearer(PLAIN)).status_code == 200
    assert post(keyed, "tokenize", prompt="x", model="other").status_code == 401
