"""The LangChain runnables against a real HTTP endpoint with scripted answers."""

import asyncio
import re
import time
from pathlib import Path

import openai
import pytest
from PIL import Image

from fourfold.assistant.chat.conversation import Conversation, connect, question_chain
from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import image_url
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

DOG = "A <p>dog</p> {<10><20><30><40>}<delim>{<1><2><3><4>} runs."


@pytest.fixture
def image():
    return Image.new("RGB", (20, 10), "red")


def model(server, **options):
    return connect(server.url, **{"max_retries": 0} | options)


def texts(body):
    """What a request says, image parts as a mark."""
    shown = []
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, list):
            content = "".join("<image>" if p["type"] == "image_url" else p["text"] for p in content)
        shown.append((message["role"], content))
    return shown


def test_a_question_chain_is_a_runnable(endpoint, image, tmp_path):
    server = endpoint(lambda body: DOG)
    chain = question_chain(model(server), Task.REFER)
    answer = chain.invoke({"image": image, "text": "the dog"})
    assert (answer.plain, answer.phrases[0].phrase) == ("A dog runs.", "dog")
    assert answer.phrases[0].boxes == (Box(0.1, 0.2, 0.3, 0.4), Box(0.01, 0.02, 0.03, 0.04))
    [body] = server.requests
    assert texts(body) == [("user", "<image>[refer] give me the location of the dog")]
    assert body["messages"][0]["content"][0]["image_url"]["url"] == image_url(image)
    assert (body["model"], body["temperature"]) == ("scripted", 0)
    image.save(tmp_path / "a.png")
    inputs = [{"image": tmp_path / "a.png", "text": "x"}, {"image": (tmp_path / "a.png").read_bytes(), "text": "y"}]
    assert [a.plain for a in chain.batch(inputs)] == ["A dog runs."] * 2
    *earlier, last = chain.stream({"image": image, "text": "x"})
    assert last == answer
    assert len(earlier) > 3
    assert not any(mark in a.plain for a in earlier for mark in "<>{}")


async def test_a_question_chain_under_asyncio(endpoint, image):
    server = endpoint(lambda body: DOG)
    chain = question_chain(model(server))
    given = {"image": image, "text": "what?"}
    answers = await asyncio.gather(chain.ainvoke(given), chain.ainvoke(given))
    assert [a.plain for a in answers] == ["A dog runs."] * 2
    assert [a async for a in chain.astream(given)][-1] == answers[0]


def test_user_errors_come_before_any_request(endpoint, image, history, tmp_path):
    server = endpoint([])
    (tmp_path / "a.txt").write_text("x")
    for given, task in [
        ({"image": image, "text": ""}, Task.REFER),
        ({"image": tmp_path / "missing.png", "text": "x"}, None),
        ({"image": tmp_path / "a.txt", "text": "x"}, None),
    ]:
        with pytest.raises(UserError):
            question_chain(model(server), task).invoke(given)
    chat = Conversation(model(server), history)
    with pytest.raises(UserError, match="empty"):
        chat.invoke({"conversation": history.create(), "text": " ", "images": [image]})
    with pytest.raises(UserError, match="no conversation"):
        chat.invoke({"conversation": "x", "text": "y"})
    assert server.requests == []


def test_a_conversation_remembers_its_answers_and_survives_a_restart(endpoint, image, history):
    server = endpoint([DOG, "It is brown.", "Yes."])
    name = history.create()
    chat = Conversation(model(server), history, system="Be {brief}.")
    first = chat.invoke({"conversation": name, "text": "the dog", "images": [image], "task": "refer"})
    assert len(first.phrases[0].boxes) == 2
    assert [a.plain for a in chat.stream({"conversation": name, "text": "colour?"})][-1] == "It is brown."
    again = Conversation(model(server), ChatHistory(history.path), system="Be {brief}.")
    again.invoke({"conversation": name, "text": "sure?"})
    assert texts(server.requests[-1]) == [
        ("system", "Be {brief}."),
        ("user", "<image>[refer] give me the location of the dog"),
        ("assistant", DOG),
        ("user", "colour?"),
        ("assistant", "It is brown."),
        ("user", "sure?"),
    ]
    assert [m.type for m in history.messages(name)] == ["human", "ai"] * 3
    assert history.messages(name)[1].response_metadata["finish_reason"] == "stop"


async def test_a_conversation_under_asyncio(endpoint, image, history):
    server = endpoint([DOG, "brown"])
    name = history.create()
    chat = Conversation(model(server), history)
    seen = [a async for a in chat.astream({"conversation": name, "text": "a", "images": [image]})]
    assert (seen[-1].plain, len(seen) > 3) == ("A dog runs.", True)
    assert (await chat.ainvoke({"conversation": name, "text": "b"})).plain == "brown"
    assert [m.text for m in history.messages(name)] == ["a", DOG, "b", "brown"]


def test_conversations_in_a_batch_do_not_mix(endpoint, image, history):
    server = endpoint(lambda body: "saw " + texts(body)[-1][1])
    names = [history.create() for _ in range(4)]
    chat = Conversation(model(server), history)
    answers = chat.batch([{"conversation": name, "text": f"q{i}"} for i, name in enumerate(names)])
    assert [a.plain for a in answers] == [f"saw q{i}" for i in range(4)]
    for i, name in enumerate(names):
        assert [m.text for m in history.messages(name)] == [f"q{i}", f"saw q{i}"]


@pytest.mark.parametrize("script", [[500], [("A dog that", 5)]])
def test_where_an_endpoint_fails_the_question_stays_with_its_picture(endpoint, history, image, script):
    server = endpoint([*script, "fine", "a dog"])
    name = history.create()
    chat = Conversation(model(server), history)
    with pytest.raises(openai.OpenAIError):
        list(chat.stream({"conversation": name, "text": "a", "images": [image]}))
    [question] = history.messages(name)
    assert question.text == "a" and question.content[0]["image_url"]["url"] == image_url(image)
    # The next question is not asked blind, and a model that wants an answer to every question gets what it wants.
    assert chat.invoke({"conversation": name, "text": "b"}).plain == "fine"
    assert texts(server.requests[-1]) == [("user", "<image>b")]
    # The first one can be asked again in its place.
    assert chat.invoke({"conversation": name, "question": 0}).plain == "a dog"
    assert texts(server.requests[-1]) == [("user", "<image>a")]
    assert [(v.parent, v.message.text) for v in history.versions(name)] == [
        (None, "a"),
        (0, "b"),
        (1, "fine"),
        (0, "a dog"),
    ]
    with pytest.raises(UserError, match="no question 2"):
        chat.ask({"conversation": name, "question": 2})


def test_a_stream_that_ends_without_telling_why_is_kept(endpoint, history):
    server = endpoint([("A dog that", None)], reason=None)
    name = history.create()
    *_, answer = Conversation(model(server), history).stream({"conversation": name, "text": "a"})
    assert answer.plain == "A dog that"
    assert "finish_reason" not in history.messages(name)[1].response_metadata


def test_asking_again_from_an_earlier_question_makes_another_version_of_what_followed(endpoint, history):
    server = endpoint(["one", "two", 500, "three"])
    name = history.create()
    chat = Conversation(model(server), history)
    chat.invoke({"conversation": name, "text": "a"})
    chat.invoke({"conversation": name, "text": "b"})
    with pytest.raises(openai.OpenAIError):
        chat.invoke({"conversation": name, "text": "c", "keep": 2})
    assert [m.text for m in history.messages(name)] == ["a", "one", "c"]
    chat.invoke({"conversation": name, "text": "c", "keep": 2})
    assert [m.text for m in history.messages(name)] == ["a", "one", "c", "three"]
    assert texts(server.requests[-1]) == [("user", "a"), ("assistant", "one"), ("user", "c")]
    history.show(name, 2)
    assert [m.text for m in history.messages(name)] == ["a", "one", "b", "two"]


def test_leaving_a_stream_keeps_what_had_arrived_and_hangs_up(endpoint, history):
    server = endpoint(["word " * 2000], pause=0.005)
    name = history.create()
    stream = Conversation(model(server), history).stream({"conversation": name, "text": "a"})
    while len(next(stream).plain) < 30:
        pass
    stream.close()
    _, kept = history.messages(name)
    assert 30 <= len(kept.text) < 1000
    assert kept.response_metadata["finish_reason"] == "cancelled"
    assert server.hung_up.wait(10)


async def test_a_cancelled_task_keeps_what_had_arrived(endpoint, history):
    server = endpoint(["word " * 2000])  # as fast as it can be read: the cancellation must get its turn all the same
    name = history.create()
    begun = asyncio.Event()

    async def read():
        async for answer in Conversation(model(server), history).astream({"conversation": name, "text": "a"}):
            if answer.plain:
                begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, kept = history.messages(name)
    assert kept.response_metadata["finish_reason"] == "cancelled"
    assert 0 < len(kept.text) < 10_000


def test_long_conversations_keep_system_image_and_question(endpoint, image, history):
    server = endpoint(lambda body: "an answer of some length " * 4)
    name = history.create()
    chat = Conversation(
        model(server), history, system="Be kind.", context_length=600, answer_length=100, image_tokens=64
    )
    chat.invoke({"conversation": name, "text": "first question", "images": [image]})
    for number in range(30):
        chat.invoke({"conversation": name, "text": f"question {number} about this and that"})
    said = texts(server.requests[-1])
    assert said[0] == ("system", "Be kind.")
    assert said[1][0] == "user"
    assert said[1][1].startswith("<image>question")
    assert said[-1] == ("user", "question 29 about this and that")
    assert [role for role, _ in said[1:]] == ["user", "assistant"] * (len(said) // 2 - 1) + ["user"]
    assert 4 < len(said) < 30
    assert len(history.messages(name)) == 62  # the store forgets nothing


def test_the_ten_lines_of_the_readme(endpoint, image, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    [lines] = [block for block in blocks if "fourfold.assistant.chat.conversation" in block]
    server = endpoint([DOG, "A dog."])
    assert "http://127.0.0.1:8000/v1" in lines
    monkeypatch.chdir(tmp_path)
    image.save("photo.jpg")
    exec(compile(lines.replace("http://127.0.0.1:8000/v1", server.url), "README.md", "exec"), {})
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "GroundedPhrase(phrase='dog'" in first
    assert last == "A dog."
    history = ChatHistory("chats.sqlite")
    [chat] = history.conversations()
    assert [message.text for message in history.messages(chat.id)] == ["what is this?", "A dog."]


def test_connect(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-another-service")
    server = endpoint(["a"])
    model(server).invoke("x")
    assert server.keys == ["Bearer none"]
    start = time.monotonic()
    with pytest.raises(UserError, match="is it running"):
        connect("http://127.0.0.1:9/v1")
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("name", "answer", "box"),
    [
        ("qwen3-vl", '```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "dog"}]\n```', Box(0.1, 0.2, 0.3, 0.4)),
        # A picture of 100 x 50 is shown to this model with 112 x 56 pixels.
        ("qwen2.5-vl", '[{"bbox_2d": [28, 14, 56, 28], "label": "dog"}]', Box(0.25, 0.25, 0.5, 0.5)),
    ],
)
def test_other_families_are_read_in_their_own_way(endpoint, history, name, answer, box):
    server = endpoint(lambda body: answer)
    chat = Conversation(model(server, model=name), history)
    given = {"conversation": history.create(), "text": "where is the dog?", "images": [Image.new("RGB", (100, 50))]}
    shown = list(chat.stream(given))
    assert not any(one.malformed or "[" in one.plain for one in shown)
    assert [(phrase.phrase, phrase.boxes) for phrase in shown[-1].phrases] == [("dog", (box,))]
    if name == "qwen3-vl":
        chain = question_chain(model(server, model=name))
        assert chain.invoke({"image": Image.new("RGB", (8, 8)), "text": "where?"}).boxes == (box,)
