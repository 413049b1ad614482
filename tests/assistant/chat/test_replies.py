"""What endpoints send that is not as the protocol has it: nothing of it may end or lock a conversation."""

import json

import openai
import pytest
from PIL import Image

from fourfold.assistant.chat.answer_parser import LONGEST_ANSWER
from fourfold.assistant.chat.conversation import Conversation, connect
from fourfold.assistant.images import image_url
from tests.assistant.scripted_endpoint import Raw


def raw(*events, done=True, kind="text/event-stream"):
    """An endpoint that sends these, whatever was asked."""
    body = b"".join(
        b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n" for event in events
    )
    return Raw(body + b"data: [DONE]\n\n" * done if kind == "text/event-stream" else events[0], kind)


def piece(content, **choice):
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None, **choice}]}


@pytest.fixture
def sends():
    servers = []

    def start(*events, **options):
        servers.append(raw(*events, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([piece("a \ud83d"), piece("\ude00 b")], "a \U0001f600 b"),  # halves of one character in two pieces
        ([piece("a \ud83d"), piece("b \udfff")], "a \ufffdb \ufffd"),
        ([piece("a\0b")], "ab"),
        ([piece([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "ab"),
        ([piece(None), piece(5), piece({"text": "!"})], "5!"),
        ([piece("a", finish_reason=7), {"choices": []}, {"choices": None}, {"choices": ["x"]}, piece("b")], "ab"),
        ([{"choices": [{"delta": None, "text": "old form"}]}], "old form"),
        ([{"choices": [{"message": {"role": "robot", "content": "whole"}}]}], "whole"),
        ([piece("a"), {**piece("b"), "usage": {"prompt_tokens": "many"}}, {**piece("c"), "usage": [1]}], "abc"),
        ([{"choices": [{"delta": {"content": "a", "tool_calls": "x", "function_call": 3}}]}, piece("b")], "ab"),
        ([{"choices": [{"delta": {"content": "a", "tool_calls": [{"index": 0, "function": None}]}}]}], "a"),
        ([piece("no"), {"choices": [{"delta": {"refusal": " I will not"}}]}], "no I will not"),
        ([piece("a", finish_reason="stop"), piece("b", finish_reason="stop")], "ab"),
    ],
)
@pytest.mark.parametrize("headers", [False, True])
async def test_what_an_endpoint_sends_is_mended_at_the_door(sends, history, events, text, headers):
    server = sends(*events)
    name = history.create()
    chat = Conversation(connect(server.url, "any", include_response_headers=headers), history)
    assert [a.text async for a in chat.astream({"conversation": name, "text": "x"})][-1] == text
    kept = history.messages(name)[1]
    assert kept.content == text and kept.response_metadata.get("finish_reason") in (None, "stop")
    json.dumps(kept.model_dump(), ensure_ascii=False).encode()


async def test_an_endless_answer_is_cut_off(sends, history):
    server = sends(piece("word-" * 200_000), piece("more"))
    name = history.create()
    answers = [
        a async for a in Conversation(connect(server.url, "any"), history).astream({"conversation": name, "text": "x"})
    ]
    assert len(answers[-1].text) == LONGEST_ANSWER
    kept = history.messages(name)[1]
    assert len(kept.text) == LONGEST_ANSWER and kept.response_metadata["finish_reason"] == "length"


WHOLE = {"choices": [{"message": {"role": "assistant", "content": "a dog"}}], "usage": {"total_tokens": None}}


@pytest.mark.parametrize("headers", [False, True])
async def test_a_reply_that_is_not_streamed_though_that_was_asked_is_kept(sends, history, headers):
    server = sends(json.dumps(WHOLE).encode(), kind="application/json; charset=utf-8")
    name = history.create()
    chat = Conversation(connect(server.url, "any", include_response_headers=headers), history)
    assert [a.plain async for a in chat.astream({"conversation": name, "text": "x"})] == ["a dog"]
    assert [a.plain for a in chat.stream({"conversation": name, "text": "y"})] == ["a dog"]
    assert chat.invoke({"conversation": name, "text": "z"}).plain == "a dog"
    assert [m.text for m in history.messages(name)] == ["x", "a dog", "y", "a dog", "z", "a dog"]


async def test_an_error_that_came_with_the_status_of_a_success_is_an_error(sends, history):
    server = sends(b'{"error": {"message": "out of coffee"}}', kind="application/json")
    with pytest.raises(openai.APIError, match="out of coffee"):
        async for _ in Conversation(connect(server.url, "any"), history).astream(
            {"conversation": history.create(), "text": "x"}
        ):
            pass


@pytest.mark.parametrize(
    ("status", "words", "most"),
    [
        (400, "more than 3 images in one request; leave some out", 3),
        (400, "At most 2 image(s) may be provided in one prompt.", 2),
        (413, "Payload Too Large", 2),
    ],
)
async def test_older_pictures_leave_before_an_endpoint_that_refuses_so_many(endpoint, history, status, words, most):
    pictures = [Image.new("RGB", (4 + number, 4)) for number in range(5)]

    def script(body):
        sent = sum("image_url" in json.dumps(part) for message in body["messages"] for part in message["content"])
        return (status, words) if sent > most else f"{sent} images"

    server = endpoint(script)
    name = history.create()
    chat = Conversation(connect(server.url, f"of {words}", max_retries=0), history)
    chat.invoke({"conversation": name, "text": "a", "images": pictures[:most]})
    exchange = chat.ask({"conversation": name, "text": "b", "images": pictures[most:]})
    assert [a.plain async for a in exchange.astream()][-1] == f"{most} images"
    assert exchange.left_out == 5 - most
    parts = [part for message in server.requests[-1]["messages"] for part in message["content"]]
    urls = [part["image_url"]["url"] for part in parts if isinstance(part, dict) and "image_url" in part]
    assert urls == [image_url(picture) for picture in pictures[-most:]]  # the latest stay
    asked = len(server.requests)
    assert chat.invoke({"conversation": name, "text": "c"}).plain == f"{most} images"
    assert len(server.requests) == asked + 1  # it is known from now on
