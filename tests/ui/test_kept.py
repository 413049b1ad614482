"""Nothing is lost, and a correction works at once: the page's script against a real endpoint."""

import sqlite3

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.tasks import Task
from fourfold.ui.state.asking import words_for
from fourfold.ui.state.endpoint import Served
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.session import Session
from fourfold.ui.state.settings import Settings
from fourfold.ui.state.turns import stored_turns
from fourfold.ui.state.wording import as_made
from tests.ui.scripted import Scripted
from tests.ui.test_page import TABLE, ask, keys, page, press, question, run, until, words


def correct(app, position: int, right: str):
    press(app, f"down-{position}")
    app.text_area(key=f"right-words-{position}").set_value(right)
    run(app)
    return press(app, "right-save")


def test_a_failed_question_keeps_its_place_and_its_picture_for_the_next(settings: Settings, endpoint: Scripted) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    history.append(name, [question("fail with 500, what is it?")])  # asked, and the page's process ended
    app = page(c=name)
    assert "This question has no answer" in words(app)
    press(app, "again-0")
    until(app, lambda app: app.error and "again-0" in keys(app))
    ask(app, "What colour is the ball?")
    until(app, lambda app: "The ball is red" in words(app) and "up-1" in keys(app))
    assert "it was told to fail" in app.error[0].value  # still in its place, and after a reload
    assert "it was told to fail" in page(c=name).error[0].value
    assert [part["type"] for part in endpoint.requests[-1]["messages"][-1]["content"]] == ["image_url", "text"]


def test_another_answer_is_a_version_of_it(settings: Settings) -> None:
    app = press(page(), "sample-0-0")
    until(app, lambda app: "regenerate-0" in keys(app))
    assert "earlier-answered-0" not in keys(app)
    press(app, "regenerate-0")
    until(app, lambda app: "2 / 2" in words(app))
    press(app, "earlier-answered-0")
    assert "1 / 2" in words(app)
    name = ChatHistory(settings.history).conversations()[0].id
    ask(app, "and a list")  # follows the version that is shown
    until(app, lambda app: "up-2" in keys(app))
    press(app, "later-answered-0")
    assert "a list" not in words(app)
    versions = ChatHistory(settings.history).versions(name)
    assert [(v.parent, v.message.type) for v in versions] == [
        (None, "human"),
        (0, "ai"),
        (0, "ai"),
        (1, "human"),
        (3, "ai"),
    ]


def test_a_correction_stands_in_place_of_the_answer_and_answers_the_same_question_at_once(
    settings: Settings, endpoint: Scripted
) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    history.append(
        name, [question("How many bananas are there?"), AIMessage("1", response_metadata={"fourfold": {"model": "m"}})]
    )
    app = page(c=name)
    ask(app, "and html")
    until(app, lambda app: "up-2" in keys(app))
    correct(app, 0, "About 20.")
    assert any("answered so from now on" in toast.value for toast in app.toast)
    shown = words(app)
    assert "About 20" in shown and "Corrected by you" in shown and "2 / 2" in shown
    assert "bold" in shown  # what followed follows it
    [record] = CorrectionStore(settings.corrections).list()
    assert (record.remember, record.consent, record.rejected, record.chosen) == (True, False, "1", "About 20.")
    # The same question about the same picture, by an endpoint that knows nothing of corrections.
    asked = len(endpoint.requests)
    ask(app, "how many bananas are there")
    until(app, lambda app: "Remembered from your correction" in words(app) and "up-4" in keys(app))
    assert len(endpoint.requests) == asked
    assert history.messages(name)[-1].text == "About 20."
    # The model's own answer can be looked at, and had.
    press(app, "earlier-answered-0")
    assert "1 / 2" in words(app) and "Corrected by you" not in words(app)
    press(app, "later-answered-0")
    press(app, "regenerate-4")
    until(app, lambda app: len(endpoint.requests) == asked + 1 and "regenerate-4" in keys(app))
    assert "I see a table" in words(app) or "3" in words(app)
    # A changed correction takes the place of the first, and taken back it is gone from everywhere.
    correct(app, 0, "SECRETNUMBER 21")
    [record] = CorrectionStore(settings.corrections).list()
    assert (record.rejected, record.chosen) == ("1", "SECRETNUMBER 21")
    turn = stored_turns(history.versions(name))[0]
    assert (turn.said, len(turn.answered_in.numbers)) == ("SECRETNUMBER 21", 2)
    press(app, "uncorrect-0")
    assert CorrectionStore(settings.corrections).list() == []
    assert stored_turns(history.versions(name))[0].said == "1"
    files = [
        file for root in (settings.history.parent, settings.corrections) for file in root.iterdir() if file.is_file()
    ]
    assert not any(b"SECRETNUMBER" in file.read_bytes() for file in files)


def test_a_correction_takes_the_place_of_all_that_there_are_of_its_answer(settings: Settings) -> None:
    """Killed after a second one was kept and before the first was forgotten, a page leaves two."""
    history = ChatHistory(settings.history)
    name = history.create()
    history.append(name, [question("How many bananas are there?"), AIMessage("1")])
    store = CorrectionStore(settings.corrections)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many bananas are there?"}]}
    ]
    for right in ("20", "21"):
        store.add(Correction(messages=messages, rejected="1", chosen=right), TABLE)
    correct(page(c=name), 0, "22")
    assert [record.chosen for record in store.list()] == ["22"]
    assert history.messages(name)[-1].text == "22"


def test_a_correction_that_was_forgotten_elsewhere_can_be_taken_back(settings: Settings) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    history.append(name, [question("How many bananas are there?"), AIMessage("1")])
    app = correct(page(c=name), 0, "20")
    store = CorrectionStore(settings.corrections)
    store.forget(store.list()[0].id)  # as `fourfold refine forget` does
    press(app, "uncorrect-0")
    assert history.messages(name)[-1].text == "1" and len(history.versions(name)) == 2


def test_what_cannot_be_given_back_by_itself_is_told(settings: Settings) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    said = [question("Is there a ball?"), AIMessage("yes"), HumanMessage("and its colour?"), AIMessage("blue")]
    history.append(name, said)
    app = correct(page(c=name), 2, "red")
    assert any("needs what was said before it" in toast.value for toast in app.toast)
    assert history.messages(name)[-1].text == "red"


def test_what_is_not_to_be_remembered_is_not_given_back(settings: Settings, endpoint: Scripted) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    history.append(name, [question("How many bananas are there?"), AIMessage("1")])
    app = press(page(c=name), "down-0")
    app.text_area(key="right-words-0").set_value("20")
    app.checkbox(key="right-remember-0").uncheck()
    run(app)
    press(app, "right-save")
    assert any("not given back" in toast.value for toast in app.toast)
    ask(app, "How many bananas are there?")
    until(app, lambda app: "up-2" in keys(app))
    assert history.messages(name)[-1].text == "3" and endpoint.requests


def test_a_rectangle_with_its_right_name_is_a_thing_shown_once(settings: Settings) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    asked = question("[identify] what object is in this location {<10><20><30><40>}")
    history.append(name, [asked, AIMessage("a red ball")])
    app = correct(page(c=name), 0, "Rex")
    assert [concept.name for concept in ConceptStore(settings.corrections).list()] == ["Rex"]
    assert any("kept as shown once, for models that have eyes" in toast.value for toast in app.toast)
    assert CorrectionStore(settings.corrections).list(consented=True) == []


def test_a_row_that_cannot_be_read_is_a_note_in_its_place(settings: Settings) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    history.append(name, [question("first"), AIMessage("one"), question("second"), AIMessage("two")])
    for position in (1, 2):
        with sqlite3.connect(settings.history) as connection:
            connection.execute("UPDATE messages SET body = 'nonsense' WHERE position = ?", (position,))
            connection.execute("UPDATE conversations SET revision = revision + 1")
        app = page(c=name)
        assert "stored but cannot be read any more" in "".join(warning.value for warning in app.warning)
        assert "two" in words(app) and "first" in words(app)
    ask(app, "What colour is the ball?")
    until(app, lambda app: "The ball is red" in words(app) and "up-4" in keys(app))


def test_what_waits_belongs_to_its_conversation(settings: Settings) -> None:
    found = Session(settings, Preferences())
    one, two = found.history.create("one"), found.history.create("two")
    found.open(one)
    found.pending, found.region, found.pointing = [TABLE], Box(0.1, 0.2, 0.3, 0.4), True
    found.open(None)
    assert (found.pending, found.region, found.pointing) == ([], None, False)
    found.pending = [TABLE, TABLE]
    found.open(two)
    assert found.pending == []
    found.open(one)
    assert (found.pending, found.region, found.pointing) == ([TABLE], Box(0.1, 0.2, 0.3, 0.4), True)
    found.open(None)
    assert len(found.pending) == 2  # the question that was begun there
    found.open(None)  # asked for twice, it is empty
    assert found.pending == [] and found.unsent == ""
    found.open(one)
    found.forget_conversation(one)
    assert found.conversation is None and found.pending == []


def test_bubbles_show_what_people_wrote(settings: Settings) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    boxes = "{<10><20><30><40>}<delim>{<1><2><3><4>}"
    looked = {"first": "yes", "answer": "yes", "calls": 1, "seconds": 1.0, "claims": []}
    looked["steps"] = [{"text": '[vqa] is there a dog in the image? "<p>a dog</p> {<1><2><3><4>}"'}]
    answer = AIMessage(boxes, response_metadata={"fourfold": {"model": "fourfold-mini", "looked": looked}})
    history.append(name, [question("[refer] give me the location of the bottle"), answer])
    app = page(c=name)
    assert "Find" in words(app) and "the bottle" in words(app)
    for sign in ("give me the location", "refer", "vqa", "<", "{"):
        assert sign not in words(app).replace("Find", "")
    told = "".join(element.proto.json for element in app.get("bidi_component"))
    assert "Answer to: Find: the bottle" in told and "give me the location" not in told
    press(app, "edit-0")
    assert app.text_area(key="edited-0").value == "the bottle"
    app.text_area(key="edited-0").set_value("the ball")
    press(app, "edit-send")
    until(app, lambda app: "up-0" in keys(app))
    assert history.messages(name)[0].text == "[refer] give me the location of the ball"
    store = CorrectionStore(settings.corrections)
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "[refer] where is the bottle?"}]}
    right = (CorrectedBox("the bottle", Box(0.1, 0.2, 0.3, 0.4)),)
    store.add(Correction(messages=(asked,), rejected=boxes, boxes=right), TABLE)
    app = page(view="refine")
    assert "bottle, 2 boxes" in words(app) and "1 corrected box: the bottle" in words(app)


@pytest.mark.parametrize("model", [None, "llava", "Qwen3-VL", "Qwen2-VL", "internvl3", "fourfold-mini"])
def test_every_question_is_read_back_as_it_was_made(model: str | None) -> None:
    served = Served(model, ours=model == "fourfold-mini") if model else None
    place = Box(0.1, 0.2, 0.3, 0.4)
    made = [(None, "is it red?"), (Task.REFER, "the bottle"), (Task.DETECTION, "bottle"), (Task.IDENTIFY, "")]
    made += [(Task.CAPTION, ""), (Task.GROUNDING, ""), (Task.VQA, "is it red?")]
    for task, text in made:
        for region in (place, None) if task is not Task.IDENTIFY else (place,):
            sent = words_for(task, text, region, served)
            assert as_made(sent) == (task, text, region), sent


def test_an_endpoint_that_refuses_so_many_pictures_is_told_beside_the_answer(settings: Settings) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    figures = {"fourfold": {"model": "m", "left_out": 3}}
    history.append(name, [question("what is it?"), AIMessage("a table", response_metadata=figures)])
    assert "The oldest 3 pictures were left out" in words(page(c=name))
