"""Where an answer comes from, on the page: claims on its boxes, heat maps, things shown once."""

import json
from collections.abc import Iterator

import pytest
from langchain_core.messages import AIMessage

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.prompts.errors import UserError
from fourfold.ui.state.endpoint import Endpoint, served_models
from fourfold.ui.state.eyes import heat_map
from fourfold.ui.state.session import Session
from fourfold.ui.state.settings import Settings
from tests.ui.scripted import BALL, BOTTLE, Scripted
from tests.ui.test_kept import correct
from tests.ui.test_page import TABLE, ask, keys, page, press, question, run, until, words


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    server = Scripted(eyes=True).start()
    yield server
    server.shutdown()
    server.server_close()


def canvases(app) -> list[dict]:
    """What the page's canvases are told to draw, but for questions' pictures."""
    told = [json.loads(element.proto.json) for element in app.get("bidi_component") if "marks" in element.proto.json]
    return [one for one in told if one["mode"] != "still"]


def test_a_model_and_the_same_with_eyes_are_one_which_is_asked_to_look_first(
    settings: Settings, endpoint: Scripted
) -> None:
    assert [(m.name, m.eyes) for m in served_models(Endpoint(endpoint.url))] == [
        ("fourfold-mini", "fourfold-mini+eyes"),
        ("fourfold-tuned", "fourfold-tuned+eyes"),
    ]
    app = press(page(), "sample-0-0")
    until(app, lambda app: "up-0" in keys(app))
    app.toggle(key="eyes").set_value(False)
    ask(run(app), "how many?")
    until(app, lambda app: "up-2" in keys(app))
    assert [body["model"] for body in endpoint.requests] == ["fourfold-mini+eyes", "fourfold-mini"]


def test_a_box_says_where_it_comes_from_and_shows_its_heat_map(settings: Settings) -> None:
    app = press(page(), "sample-0-0")
    until(app, lambda app: "up-0" in keys(app))
    ask(app, "where is the bottle? Give me the location of the bottle")
    until(app, lambda app: "up-2" in keys(app))
    assert "no dog: read-out + model, 90\u202f% sure" in words(app)
    [drawn] = canvases(app)
    assert [mark["note"] for mark in drawn["marks"]] == ["read-out, 83\u202f% sure"]
    assert drawn["heat"] == []
    [drawn] = canvases(press(app, "heat-2"))
    assert drawn["heat"] == [[0, 0.5, 1], [0, 0, 0.25]]
    [drawn] = canvases(press(app, "heat-2"))
    assert drawn["heat"] == []


def test_what_hinders_a_heat_map_is_a_sentence(endpoint: Scripted) -> None:
    with pytest.raises(UserError, match="know no word of “a wish”"):
        heat_map(Endpoint(endpoint.url), "fourfold-mini", TABLE, "a wish")
    with pytest.raises(UserError, match="shows no heat map"):
        heat_map(Endpoint("http://127.0.0.1:9/v1"), "fourfold-mini", TABLE, "a wish")


def test_things_shown_once_are_listed_renamed_and_forgotten(settings: Settings) -> None:
    store = ConceptStore(settings.corrections)
    store.show("Rex", TABLE, [Box(*BALL)])
    bracket = store.show("our bracket", TABLE, [Box(*BOTTLE)])
    store.show("our bracket", TABLE, [Box(*BALL)], positive=False)
    app = page()
    press(app, "open-refine")
    assert "Rex" in words(app) and "1 example, 1 of what it is not" in words(app)
    app.text_input(key="rename-0-Rex").set_value("Bello")
    press(app, "rename-go-0")
    assert [concept.name for concept in store.list()] == ["our bracket", "Bello"]
    press(app, f"forget-example-{bracket.id}")
    press(app, "forget-concept-1")
    assert [len(concept.examples) for concept in store.list()] == [1, 1]  # a dialog asks first
    assert "forget-really" in keys(app)


def test_a_heat_map_is_fetched_anew_once_things_were_shown_or_forgotten(
    settings: Settings, endpoint: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, store = Endpoint(endpoint.url), ConceptStore(settings.corrections)
    first = heat_map(served, "fourfold-mini", TABLE, "the bottle", store.stamp())
    monkeypatch.setattr("fourfold.ui.state.eyes.httpx.post", None)  # as long as nothing changes it is not asked again
    assert heat_map(served, "fourfold-mini", TABLE, "the bottle", store.stamp()) is first
    monkeypatch.undo()
    store.show("the bottle", TABLE, [Box(*BOTTLE)])
    again = heat_map(served, "fourfold-mini", TABLE, "the bottle", store.stamp())
    assert again == first and again is not first
    store.forget("bottle")
    assert heat_map(served, "fourfold-mini", TABLE, "the bottle", store.stamp()) is not again


@pytest.mark.parametrize("looks_there", [True, False])
def test_showing_a_thing_says_whether_whoever_answers_knows_it_now(
    settings: Settings, endpoint: Scripted, looks_there: bool
) -> None:
    if looks_there:
        endpoint.shown.add("Rex")
    app = _drawn()
    [before] = canvases(app)
    app.text_input(key="concept-name").set_value("Rex")
    next(button for button in app.button if button.label == "Remember it").click()
    run(app)
    [concept] = ConceptStore(settings.corrections).list()
    assert (concept.name, concept.examples[0].boxes) == ("Rex", (Box(*BALL),))
    [after] = canvases(app)
    assert (app.session_state["session"].region, after["marks"]) == (None, [])
    assert after["revision"] != before["revision"]  # the browser forgets the rectangle too
    [told] = [toast.value for toast in app.toast]
    assert ("is known by sight" in told) == looks_there
    assert (f"fourfold serve --store {settings.corrections}" in told) != looks_there


@pytest.mark.parametrize("own", [True, False])
def test_only_an_endpoint_that_does_not_look_in_the_folder_is_said_not_to(
    settings: Settings, endpoint: Scripted, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "asks_local_server", own)
    history = ChatHistory(settings.history)
    name = history.create()
    asked = question("[identify] what object is in this location {<10><20><30><40>}")
    history.append(name, [asked, AIMessage("a red ball")])
    app = correct(page(c=name), 0, "train")  # a noun that the eyes know without being shown it
    [told] = [toast.value for toast in app.toast if "train" in toast.value]
    assert "kept as shown once" in told and ("does not look in this folder" in told) != own


def test_without_eyes_nothing_is_shown_once(settings: Settings, endpoint: Scripted) -> None:
    endpoint.eyes = False
    app = _drawn()
    assert [drawn["action"] for drawn in canvases(app)] == ["What is this?"]
    assert "concept-name" not in {field.key for field in app.text_input}


def _drawn():
    """A tab with the ball of the table marked by a rectangle."""
    app = page()
    session = app.session_state["session"]
    session.pending, session.region = [TABLE], Box(*BALL)
    return run(app)
