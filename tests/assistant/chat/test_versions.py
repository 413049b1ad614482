"""Earlier versions of questions and answers stay, and whatever is stored can be read."""

import json
import sqlite3

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from fourfold.assistant.chat.export import export_conversation
from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.chat.message_tree import path_of
from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from tests.assistant.chat.test_history import every_byte, picture, question


@pytest.fixture
def history(tmp_path):
    return ChatHistory(tmp_path / "chats" / "history.sqlite")


def test_export_holds_every_version(history, tmp_path):
    chat = history.create()
    history.append(chat, [question("what?"), AIMessage("a cat"), HumanMessage("sure?"), AIMessage("yes")])
    history.append(chat, [AIMessage("a dog")], keep=1)
    history.append(chat, [question("what is it?", seed=3), AIMessage("noise")], keep=0)
    out = export_conversation(history, chat, tmp_path / "out")
    body = json.loads((out / "conversation.json").read_text())
    assert [message["content"][-1]["text"] for message in body["messages"]] == ["what is it?", "noise"]
    told = [(v["number"], v["parent"], v["shown"], v["content"][-1]["text"]) for v in body["versions"]]
    assert told == [
        (0, None, False, "what?"),
        (1, 0, False, "a cat"),
        (2, 1, True, "sure?"),
        (3, 2, True, "yes"),
        (4, 0, True, "a dog"),
        (5, None, True, "what is it?"),
        (6, 5, True, "noise"),
    ]
    pictures = {part["image_url"]["url"] for v in body["versions"] for part in v["content"] if part["type"] != "text"}
    assert len(pictures) == 2 and all((out / name).exists() for name in pictures)
    markdown = (out / "conversation.md").read_text()
    before, _, others = markdown.partition("## Other versions")
    assert "noise" in before and "a cat" not in before
    assert all(words in others for words in ("At the beginning:", "a cat", "sure?", "a dog"))


def test_another_version_of_the_end_is_all_or_nothing(history):
    chat = history.create()
    before = [question("a"), AIMessage("b"), question("c", seed=3), AIMessage("d")]
    history.append(chat, before)
    bad = HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}])
    with pytest.raises(UserError, match="image"):
        history.append(chat, [question("e"), bad], keep=2)
    assert history.messages(chat) == before
    history.append(chat, [question("e", seed=4), AIMessage("f")], keep=2)
    assert history.messages(chat) == [*before[:2], question("e", seed=4), AIMessage("f")]


def test_earlier_versions_stay_with_what_followed_them(history):
    chat = history.create()
    history.append(chat, [question("a"), AIMessage("first"), HumanMessage("and then?"), AIMessage("more")])
    history.append(chat, [AIMessage("second")], keep=1)
    assert [m.text for m in history.messages(chat)] == ["a", "second"]
    versions = history.versions(chat)
    assert [(v.number, v.parent, v.message.text, v.shown) for v in versions] == [
        (0, None, "a", True),
        (1, 0, "first", False),
        (2, 1, "and then?", True),
        (3, 2, "more", True),
        (4, 0, "second", True),
    ]
    assert [v.number for v in path_of(versions)] == [0, 4]
    history.show(chat, 1)
    assert [m.text for m in ChatHistory(history.path).messages(chat)] == ["a", "first", "and then?", "more"]
    assert history.append(chat, [AIMessage("late")], after=4) == 5  # an answer to what is no longer shown
    assert [m.text for m in history.messages(chat)] == ["a", "first", "and then?", "more"]
    history.show(chat, 4)
    assert [m.text for m in history.messages(chat)] == ["a", "second", "late"]
    for wrong in (lambda: history.show(chat, 9), lambda: history.append(chat, [], after=9)):
        with pytest.raises(UserError, match="no message 9"):
            wrong()


def test_a_version_can_take_the_place_of_another_and_be_withdrawn(history):
    chat = history.create()
    history.append(chat, [question("a"), AIMessage("wrong"), HumanMessage("next"), AIMessage("yes")])
    marked = AIMessage("SECRETRIGHT", response_metadata={"fourfold": {"corrected": "id-1"}})
    assert history.supersede(chat, 1, marked) == 4
    assert [m.text for m in history.messages(chat)] == ["a", "SECRETRIGHT", "next", "yes"]
    assert history.find("corrected", "id-1") == [(chat, 4)] and history.find("corrected", "id-2") == []
    history.withdraw(chat, 4)
    assert [m.text for m in history.messages(chat)] == ["a", "wrong", "next", "yes"]
    assert b"SECRETRIGHT" not in every_byte(history.path) and b"secretright" not in every_byte(history.path)
    with pytest.raises(UserError, match="only version"):
        history.withdraw(chat, 1)
    history.replace(chat, 1, AIMessage("swapped"))
    assert [m.text for m in history.messages(chat)] == ["a", "swapped", "next", "yes"]
    assert history.conversations("swapped") and not history.conversations("wrong")


def test_delete_leaves_no_trace_of_earlier_versions(history):
    chat = history.create("a title of its own")
    history.append(chat, [question("SECRETWORD one", seed=7, side=200), AIMessage("SECRETWORD two")])
    history.append(chat, [question("edited", seed=8, side=200), AIMessage("SECRETWORD three")], keep=0)
    history.append(chat, [AIMessage("fine")], keep=1)
    secrets = [Attachment.from_image(picture(seed, 200)).content[500:564] for seed in (7, 8)]
    assert all(secret in every_byte(history.path) for secret in secrets)
    history.delete(chat)
    left = every_byte(history.path)
    assert not any(secret in left for secret in [*secrets, b"SECRETWORD", b"secretword"])
    with sqlite3.connect(history.path) as connection:
        for table in ("messages", "images", "uses"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_nothing_that_is_stored_can_lock_a_conversation(history):
    """Halves of characters are mended on the way in; what else stands there is a note on the way out."""
    chat = history.create("odd \ud800 title")
    odd = AIMessage("half \ud83d, \x00, whole \ud83d\ude00", response_metadata={"fourfold": {"model": "\udfff"}})
    history.append(chat, [HumanMessage("odd \ud800 text"), odd])
    assert [m.text for m in history.messages(chat)] == ["odd \ufffd text", "half \ufffd, \x00, whole \U0001f600"]
    assert json.dumps([m.model_dump() for m in history.messages(chat)], ensure_ascii=False).encode()
    assert history.info(chat).title == "odd \ufffd title"
    history.append(chat, [HumanMessage("fine"), AIMessage("fine")])
    bodies = ["", "{", "[]", "null", '{"type": "ai"}', '{"type": "robot", "data": {"content": "x"}}']
    bodies += ['{"type": "ai", "data": {"content": 5}}', '{"type": "ai", "data": {"content": [{"type": "image_url"}]}}']
    bodies += ['{"type": "ai", "data": {"content": [3]}}', '{"type": "ai", "data": {"content": "old \\ud800 half"}}']
    for body in bodies:
        for place in (0, 1):
            with sqlite3.connect(history.path) as connection:
                connection.execute("UPDATE messages SET body = ? WHERE position = ?", (body, place))
                connection.execute("UPDATE conversations SET revision = revision + 1")
            read = history.messages(chat)
            assert len(read) == 4 and [m.text for m in read[2:]] == ["fine", "fine"]
            if "half" in body:
                assert read[place].text == "old \ufffd half"
            else:
                assert read[place].response_metadata["fourfold"]["unreadable"]
                assert read[place].type == ("human", "ai")[place]
