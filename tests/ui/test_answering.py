"""Answers under way, against a real endpoint."""

import time
from collections.abc import Iterator

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from fourfold.assistant.chat.conversation import Exchange
from fourfold.assistant.chat.history import ChatHistory, InMemoryHistory
from fourfold.assistant.images import Attachment
from fourfold.ui.state.answering import ModelSettings, PendingTurn, ask, under_way
from fourfold.ui.state.endpoint import Endpoint
from fourfold.ui.state.turns import pictures_of, stored_turns
from fourfold.ui.views.welcome import SAMPLES
from tests.ui.scripted import LONG, Scripted

TABLE = Attachment.from_path(SAMPLES[0].file)


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    server = Scripted(pause=0.01).start()
    yield server
    server.shutdown()
    server.server_close()


def asker(endpoint: Scripted, model: str = "fourfold-mini", **options) -> ModelSettings:
    return ModelSettings(Endpoint(endpoint.url), model, parameters={"temperature": 0.0, "max_tokens": 64}, **options)


def wait(asked: PendingTurn, condition=lambda asked: asked.done, seconds: float = 60) -> PendingTurn:
    end = time.monotonic() + seconds
    while not condition(asked):
        assert time.monotonic() < end
        time.sleep(0.01)
    return asked


def test_question_and_answer_are_stored_with_their_figures(endpoint: Scripted) -> None:
    history = InMemoryHistory()
    name = history.create()
    wait(ask(history, name, 0, "What colour is the ball?", [], [asker(endpoint)]))
    question, answer = history.messages(name)
    assert (question.text, answer.text) == ("What colour is the ball?", "The ball is red.")
    figures = answer.response_metadata["fourfold"]
    assert figures["model"] == "fourfold-mini" and figures["finish_reason"] == "stop"
    assert figures["completion_tokens"] == 4 and figures["prompt_tokens"] == 80
    assert 0 < figures["first"] <= figures["seconds"]
    assert endpoint.requests[-1]["temperature"] == 0.0
    assert under_way(name) is None


def test_a_stopped_answer_is_kept_as_far_as_it_came_and_the_endpoint_is_let_go(endpoint: Scripted) -> None:
    history = InMemoryHistory()
    name = history.create()
    asked = ask(history, name, 0, "tell me a long story", [], [asker(endpoint)])
    wait(asked, lambda asked: "word5" in asked.answers[0].text)
    asked.stop()
    wait(asked)
    answer = history.messages(name)[1]
    assert answer.text.startswith("word0 word1") and len(answer.text) < len(LONG)
    assert answer.response_metadata["fourfold"]["finish_reason"] == "cancelled"
    assert endpoint.hung_up.wait(30)


def test_stopped_before_the_first_word_the_question_stays_with_its_picture(endpoint: Scripted) -> None:
    history = InMemoryHistory()
    name = history.create()
    asked = ask(history, name, None, "tell me a long story", [TABLE], [asker(endpoint)])
    assert [m.text for m in history.messages(name)] == ["tell me a long story"]  # whatever comes now
    asked.stop()
    wait(asked)
    [question] = history.messages(name)
    assert [picture.sha256 for picture in pictures_of(question)] == [TABLE.sha256]
    assert question.response_metadata["fourfold"] == {"stopped": True}
    assert under_way(name) is None
    # The next question is asked about the picture too.
    wait(ask(history, name, None, "What colour is the ball?", [], [asker(endpoint)]))
    assert [m.text for m in history.messages(name)][1:] == ["What colour is the ball?", "The ball is red."]
    [sent] = endpoint.requests[-1]["messages"]
    assert [part["type"] for part in sent["content"]] == ["image_url", "text"]


def test_another_answer_is_another_version_and_failing_to_get_one_is_told(endpoint: Scripted) -> None:
    history = InMemoryHistory()
    name = history.create()
    first = wait(ask(history, name, None, "What colour is the ball?", [], [asker(endpoint)]))
    again = ask(history, name, None, "", [], [asker(endpoint, "fourfold-tuned")], first.number)
    wait(again)
    assert [m.text for m in history.messages(name)] == ["What colour is the ball?", "Red. It is a shiny red ball."]
    [turn] = stored_turns(history.versions(name))
    assert (turn.asked_in.numbers, turn.answered_in.numbers, turn.answered_in.at) == ((0,), (1, 2), 1)
    nobody = ModelSettings(Endpoint("http://127.0.0.1:9/v1"), "x", parameters={})
    wait(ask(history, name, None, "", [], [nobody], first.number))
    [turn] = stored_turns(history.versions(name))
    assert turn.said == "Red. It is a shiny red ball." and "does not answer" in turn.trouble["error"]
    wait(ask(history, name, None, "", [], [asker(endpoint)], first.number))
    [turn] = stored_turns(history.versions(name))
    assert turn.answered_in.numbers == (1, 2, 3) and turn.trouble == {}


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("fail with 400", "cannot answer this: it was told to fail"),
        ("fail with 401", "refuses this key"),
        ("fail with 404", "Choose another model"),
        ("fail with 429", "too much to do"),
        ("fail with 500", "failed (500)"),
    ],
)
def test_failures_are_sentences_and_what_was_said_before_stays(endpoint: Scripted, question: str, words: str) -> None:
    history = InMemoryHistory()
    name = history.create()
    before = [HumanMessage("hello"), AIMessage("hi"), HumanMessage("old"), AIMessage("older")]
    history.append(name, before)
    asked = wait(ask(history, name, 2, question, [], [asker(endpoint)]))
    assert words in (asked.answers[0].error or "")
    assert [m.text for m in history.messages(name)] == ["hello", "hi", question]
    assert under_way(name) is None
    turn = stored_turns(history.versions(name))[-1]
    assert words in turn.trouble["error"] and turn.asked_in.numbers == (2, asked.number)
    history.show(name, 2)
    assert [m.text for m in history.messages(name)] == ["hello", "hi", "old", "older"]


@pytest.mark.parametrize("how", ["break off", "reset"])
def test_an_answer_that_breaks_off_is_kept_as_far_as_it_came(endpoint: Scripted, how: str) -> None:
    history = InMemoryHistory()
    name = history.create()
    asked = wait(ask(history, name, None, f"tell me a list, {how}", [], [asker(endpoint)]))
    answer = history.messages(name)[1]
    figures = answer.response_metadata["fourfold"]
    assert answer.text.startswith("It shows:") and figures["finish_reason"] is None and asked.stored
    if how == "reset":
        assert "broke off in the middle" in figures["error"]


def test_an_endpoint_that_is_not_there(tmp_path) -> None:
    history = ChatHistory(tmp_path / "history.sqlite")
    name = history.create()
    nobody = ModelSettings(Endpoint("http://127.0.0.1:9/v1"), "x", parameters={})
    asked = wait(ask(history, name, 0, "hello", [], [nobody]))
    assert "does not answer. Is it running?" in (asked.answers[0].error or "")


def test_two_models_answer_side_by_side(endpoint: Scripted) -> None:
    history = InMemoryHistory()
    name = history.create()
    askers = [asker(endpoint), asker(endpoint, "fourfold-tuned", adapts="fourfold-mini")]
    wait(ask(history, name, 0, "What colour is the ball?", [], askers))
    figures = history.messages(name)[1].response_metadata["fourfold"]
    assert figures["other"]["text"] == "Red. It is a shiny red ball."
    assert figures["other"]["adapts"] == "fourfold-mini"


def test_looking_again_tells_its_steps_and_keeps_the_first_answer(endpoint: Scripted) -> None:
    history = InMemoryHistory()
    name = history.create()
    words, picture = "[refer] give me the location of the bottle", Attachment.from_path(SAMPLES[0].file)
    asked = wait(ask(history, name, 0, words, [picture], [asker(endpoint, looks={"check_claims": True})]))
    answer = history.messages(name)[1]
    looked = answer.response_metadata["fourfold"]["looked"]
    assert answer.text.startswith("<p>the bottle</p>")
    assert looked["claims"][0]["phrase"] == "the bottle" and looked["calls"] >= 2
    assert len(asked.answers[0].steps) == len(looked["steps"]) >= 3


def test_a_conversation_deleted_meanwhile_stays_deleted(endpoint: Scripted) -> None:
    history = InMemoryHistory()
    name = history.create()
    asked = ask(history, name, 0, "a list please", [], [asker(endpoint)])
    history.delete(name)
    wait(asked)
    assert not asked.stored and "deleted" in (asked.trouble or "")
    assert history.conversations() == []


def test_whatever_hinders_keeping_an_answer_is_said(endpoint: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    history = InMemoryHistory()
    name = history.create()
    monkeypatch.setattr(Exchange, "store", broken)
    asked = wait(ask(history, name, None, "What colour is the ball?", [], [asker(endpoint)]))
    assert asked.trouble is not None and "could not be kept (RuntimeError)" in asked.trouble
    assert under_way(name) is asked and [m.text for m in history.messages(name)] == ["What colour is the ball?"]
