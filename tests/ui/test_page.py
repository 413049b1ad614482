"""The page's script, run by Streamlit's own test harness against a real endpoint."""

import importlib.metadata
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from streamlit.testing.v1 import AppTest

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.ui.state.answering import under_way
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.settings import Settings, configure
from fourfold.ui.views.markdown import plain
from fourfold.ui.views.welcome import SAMPLES
from tests.ui.scripted import Scripted

TABLE = Attachment.from_path(SAMPLES[0].file)
APP = Path(__file__).parents[2] / "ui" / "app.py"


def page(**query: str) -> AppTest:
    """A tab, opened."""
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.query_params.update(query)
    return run(app)


def run(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception
    return app


def until(app: AppTest, condition: Callable[[AppTest], object]) -> AppTest:
    """Run again, as the page does by itself, until something is there."""
    end = time.monotonic() + 60
    while not condition(app):
        assert time.monotonic() < end
        time.sleep(0.05)
        run(app)
    return app


def keys(app: AppTest) -> set[str]:
    return {button.key for button in app.button if button.key}


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click()
    return run(app)


def words(app: AppTest) -> str:
    return "\n".join(str(element.value) for element in [*app.markdown, *app.caption, *app.error, *app.info])


def question(text: str) -> HumanMessage:
    image = {"type": "image_url", "image_url": {"url": TABLE.data_uri}}
    return HumanMessage([image, {"type": "text", "text": text}])


def ask(app: AppTest, question: str) -> AppTest:
    app.chat_input(key="composer").set_value(question)
    return run(app)


def test_one_click_on_a_sample_gets_an_answer_and_a_conversation(settings: Settings) -> None:
    app = press(page(), "sample-0-0")
    until(app, lambda app: "The ball is red" in words(app) and "up-0" in keys(app))
    history = ChatHistory(settings.history)
    [info] = history.conversations()
    assert info.title == "What colour is the ball?" and info.messages == 2
    assert app.query_params["c"] in (info.id, [info.id])
    assert "4 tokens" in words(app)


def test_an_answer_that_is_complete_while_the_page_is_drawn_is_not_called_empty(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ChatHistory.versions

    def versions(self: ChatHistory, conversation: str):
        before = read(self, conversation)
        asked, end = under_way(conversation), time.monotonic() + 60
        while asked is not None and not asked.done and time.monotonic() < end:  # stored after this page read the store
            time.sleep(0.01)
        return before

    monkeypatch.setattr(ChatHistory, "versions", versions)
    app = press(page(), "sample-0-0")
    until(app, lambda app: "up-0" in keys(app))
    assert not app.warning and not {"retry", "again-0"} & keys(app)
    assert "The ball is red" in words(app) and "up-0" in keys(app)


def test_the_address_brings_a_conversation_back_and_an_unknown_one_is_a_new_chat(settings: Settings) -> None:
    history = ChatHistory(settings.history)
    name = history.create()
    history.append(name, [question("what is it?"), AIMessage("a *table*")])
    app = page(c=name)
    assert "what is it?" in words(app) and "a *table*" in words(app)
    app = page(c="nobody")
    assert "What shall we look at?" in words(app) and "c" not in app.query_params


def test_thumbs_are_records_and_can_be_taken_back(settings: Settings) -> None:
    app = press(page(), "sample-0-1")
    until(app, lambda app: "up-0" in keys(app))
    press(app, "up-0")
    store = CorrectionStore(settings.corrections)
    [praise] = store.list()
    assert praise.verdict == "up" and not praise.consent
    assert praise.rejected.startswith("<p>the bottle</p>")
    press(app, "down-0")
    assert app.checkbox(key="right-remember-0").value and not app.checkbox(key="right-consent-0").value
    app.text_area(key="right-words-0").set_value("the green bottle")
    app.checkbox(key="right-consent-0").check()
    run(app)
    press(app, "right-save")
    [correction] = store.list()  # the praise is taken back
    assert correction.verdict == "down" and correction.consent
    assert correction.chosen == "the green bottle"
    assert correction.boxes is not None and len(correction.boxes) == 1
    press(app, "open-refine")
    assert "the green bottle" in words(app) and "an adapter may be trained with it" in words(app)


def test_an_error_is_a_sentence_and_asking_again_helps(settings: Settings, endpoint: Scripted) -> None:
    app = ask(page(), "fail with 500")
    until(app, lambda app: app.error and "again-0" in keys(app))
    assert "it was told to fail" in app.error[0].value
    press(app, "again-0")
    until(app, lambda app: app.error and len(endpoint.requests) == 2)
    assert ChatHistory(settings.history).conversations()[0].messages == 1  # the question


def test_an_endpoint_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    configure(Settings("http://127.0.0.1:9/v1", history=tmp_path / "h.sqlite", corrections=tmp_path / "refine"))
    app = page()
    assert app.error[0].value == plain("The endpoint http://127.0.0.1:9/v1 does not answer. Is it running?")
    assert app.button(key="sample-0-0").disabled


def test_editing_makes_another_version_of_what_followed(settings: Settings, endpoint: Scripted) -> None:
    app = ask(page(), "a list please")
    until(app, lambda app: "edit-0" in keys(app))
    ask(app, "and html")
    until(app, lambda app: "edit-2" in keys(app) and "up-2" not in keys(app))
    press(app, "edit-0")
    app.text_area(key="edited-0").set_value("What colour is the ball?")
    press(app, "edit-send")
    until(app, lambda app: "The ball is red" in words(app) and "edit-0" in keys(app))
    history = ChatHistory(settings.history)
    [info] = history.conversations()
    assert [m.text for m in history.messages(info.id)] == ["What colour is the ball?", "The ball is red."]
    assert len(endpoint.requests[-1]["messages"]) == 1
    assert "2 / 2" in words(app) and app.button(key="later-asked-0").disabled
    press(app, "earlier-asked-0")
    assert "1 / 2" in words(app) and "and html" in words(app) and "The ball is red" not in words(app)


def test_keep_nothing_keeps_nothing(settings: Settings) -> None:
    app = page()
    app.toggle(key="private").set_value(True)
    run(app)
    ask(app, "What colour is the ball?")
    until(app, lambda app: "The ball is red" in words(app) and "edit-0" in keys(app))
    assert ChatHistory(settings.history).conversations() == []
    assert "c" not in app.query_params
    assert Preferences.load(settings.preferences).private  # also after a reload
    app.toggle(key="private").set_value(False)
    run(app)
    assert "The ball is red" not in words(app)


def test_conversations_are_searched_by_what_was_said(settings: Settings) -> None:
    app = press(page(), "sample-0-0")
    until(app, lambda app: "up-0" in keys(app))
    name = ChatHistory(settings.history).conversations()[0].id
    app.text_input(key="search").set_value("zebra")
    assert f"open-{name}" not in keys(run(app))
    app.text_input(key="search").set_value("IS RED")
    assert f"open-{name}" in keys(run(app))


def test_parameters_and_looks_reach_the_endpoint_and_survive(settings: Settings, endpoint: Scripted) -> None:
    app = page()
    app.slider(key="temperature").set_value(0.5)
    app.number_input(key="max-tokens").set_value(33)
    app.toggle(key="look-check_claims").set_value(True)
    app.text_area(key="system").set_value("Be brief.")
    run(app)
    press(app, "sample-0-1")
    until(app, lambda app: "up-0" in keys(app))
    first = endpoint.requests[0]
    assert first["temperature"] == 0.5 and (first.get("max_tokens") or first["max_completion_tokens"]) == 33
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    assert len(endpoint.requests) > 2  # it looked again
    kept = Preferences.load(settings.preferences)
    assert (kept.temperature, kept.max_tokens, kept.looks) == (0.5, 33, ["check_claims"])


def test_side_by_side(settings: Settings) -> None:
    app = page()
    app.toggle(key="compare").set_value(True)
    run(app)
    press(app, "sample-0-0")
    until(app, lambda app: "Red. It is a shiny red ball" in words(app) and "up-0" in keys(app))
    name = ChatHistory(settings.history).conversations()[0].id
    press(app, f"choose-{name}-0-other")
    stored = ChatHistory(settings.history).messages(name)
    assert stored[1].text == "Red. It is a shiny red ball."
    assert stored[1].response_metadata["fourfold"]["other"]["text"] == "The ball is red."


def test_a_bad_file_of_preferences_does_not_break_the_page(settings: Settings) -> None:
    settings.preferences.write_text('{"temperature": 9, "max_tokens": 0, "seed": -1, "looks": ["x"], "model": "gone"}')
    app = page()
    assert app.slider(key="temperature").value == 0 and not app.error
    press(app, "sample-0-0")
    until(app, lambda app: "up-0" in keys(app))


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What SQLite is asked from now on."""
    asked: list[str] = []
    connect = sqlite3.connect

    def watched(*args, **options) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_trace_callback(asked.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    return asked


def test_pictures_and_corrections_are_read_once_and_not_with_every_run(
    settings: Settings, statements: list[str]
) -> None:
    def reads() -> tuple[int, int]:
        pictures = sum("data FROM images" in statement for statement in statements)
        return pictures, sum("SELECT fields" in statement for statement in statements)

    history = ChatHistory(settings.history)
    name = history.create()
    history.append(name, [question("what is it?"), AIMessage("a table"), question("and now?"), AIMessage("a table")])
    app = page(c=name)
    assert reads() == (1, 1)
    run(run(app))
    assert reads() == (1, 1)
    ask(app, "What colour is the ball?")
    until(app, lambda app: "up-4" in keys(app))
    # The question once it is stored, the answer once it is; and what was corrected about it, once.
    assert reads() == (3, 2)
    press(app, "up-0")
    assert reads() == (3, 3)


def test_an_adapter_is_put_to_use_here_and_an_endpoint_of_others_is_not_told(
    settings: Settings, endpoint: Scripted, tmp_path: Path
) -> None:
    built = settings.corrections / "built"
    built.mkdir(parents=True)
    (built / "adapter_model.safetensors").write_bytes(b"weights")
    (built / "adapter_config.json").write_text("{}")
    registry = Registry(settings.corrections)
    revision = registry.register(built, base="base", data="data", records=[]).id
    registry.gated(revision, promotable=True, summary={}, report=None)
    app = press(page(view="refine"), "promote")
    until(app, lambda app: "rollback" in keys(app))
    assert not app.error and registry.state().current == revision
    assert "is told nothing" in words(app) and endpoint.told == []


def test_nothing_beside_the_script_stands_in_for_a_module_of_others() -> None:
    """Streamlit puts the script's folder in front of the modules' path."""
    beside = {path.stem for path in APP.parent.iterdir()} - {"__init__", "__pycache__"}
    assert not beside & (set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions()))
    imports = [line.split()[1] for line in APP.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert imports and all(name.startswith("fourfold.") for name in imports)
