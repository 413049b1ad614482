"""Where things stand on the page, where the focus is, and what the keys do that people press without thinking."""

from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from tests.browser.conftest import Served, open_tab, start_page
from tests.browser.test_page import TABLE, say, settle, shape, upload
from tests.ui.scripted import BALL, THOUGHT, Scripted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
INPUT = '[data-testid="stChatInput"] textarea'
FOCUSED = "document.activeElement.matches('[data-testid=\"stChatInput\"] textarea')"


def edges(tab, selector: str) -> tuple[float, float]:
    """Left and right of what is seen of the last such element, in pixels of the window."""
    frame = tab.locator(selector).last.bounding_box()
    return frame["x"], frame["x"] + frame["width"]


def test_nothing_is_cut_broken_or_out_of_line(chromium, served: Served) -> None:
    for tab in open_tab(chromium, served.url):
        upload(tab, TABLE)
        say(tab, "Hello!")
        settle(tab)
        say(tab, "A long question. " * 100)
        settle(tab, 2)
        for width in (1280, 1920, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.wait_for_timeout(700)  # the sidebar slides
            bubbles = tab.locator('[class*="st-key-user-"] [data-testid="stChatMessageContent"]')
            right = edges(tab, '[data-testid="stChatInput"]')[1]
            for number in range(bubbles.count()):
                frame = bubbles.nth(number).bounding_box()
                assert abs(frame["x"] + frame["width"] - right) < 1.5, width
            words = tab.get_by_text("Hello!", exact=True).last.bounding_box()
            assert words["height"] < 34, width  # one line
            for number in range(tab.get_by_role("radio").count()):
                chip = tab.get_by_role("radio").nth(number)
                frame = chip.bounding_box()
                assert frame["x"] >= 0 and frame["x"] + frame["width"] <= width, (width, chip.inner_text())
                assert chip.evaluate(
                    "chip => [chip, ...chip.querySelectorAll('p')].every(e => e.scrollWidth <= e.clientWidth + 1)"
                )
                assert chip.evaluate(
                    "chip => { const c = chip.getBoundingClientRect(), g = chip.parentElement.getBoundingClientRect();"
                    " return c.right <= g.right + 6; }"
                ), (width, chip.inner_text())
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.set_viewport_size({"width": 1280, "height": 900})
        question = tab.locator('[class*="st-key-user-"]').last
        assert question.bounding_box()["height"] < 500  # folded
        question.get_by_text("All of it").click()
        question.get_by_text("A long question. " * 100, exact=False).last.wait_for()


def test_settings_stay_below_many_conversations_and_search_finds_as_one_types(chromium, tmp_path: Path) -> None:
    history = ChatHistory(tmp_path / "data" / "history.sqlite")
    for number in range(40):
        name = history.create(f"talk {number}")
        history.append(name, [HumanMessage(f"about {number}"), AIMessage("yes")])
    endpoint = Scripted().start()
    process, url = start_page(endpoint.url, tmp_path / "data", tmp_path / "log.txt")
    try:
        for tab in open_tab(chromium, url):
            tab.get_by_role("button", name="talk 39", exact=True).wait_for()
            settings = tab.locator(".st-key-settings").bounding_box()
            assert settings["y"] + settings["height"] <= 900
            tab.get_by_text("Connection", exact=True).click()
            tab.get_by_role("button", name="Connect", exact=True).scroll_into_view_if_needed()
            assert tab.get_by_role("button", name="New chat").bounding_box()["y"] >= 0
            tab.get_by_text("Connection", exact=True).click()
            tab.get_by_label("Search conversations").press_sequentially("talk 17")
            tab.get_by_role("button", name="talk 39", exact=True).wait_for(state="detached")
            assert tab.get_by_role("button", name="talk 17", exact=True).is_visible()
            tab.get_by_label("Search conversations").fill("")
            # Renaming begins in the field, with its words selected.
            tab.get_by_role("button", name="talk 39", exact=True).wait_for()
            tab.locator('[class*="st-key-menu-"] button').first.click()
            tab.get_by_role("menuitem", name="Rename").click()
            tab.wait_for_function("document.activeElement.matches('[role=dialog] input')")
            tab.keyboard.type("the newest")
            tab.keyboard.press("Enter")
            tab.get_by_role("button", name="the newest", exact=True).wait_for()
    finally:
        process.terminate()
        process.wait(30)
        endpoint.shutdown()


def test_keys_do_what_people_expect(tab) -> None:
    say(tab, "a list please")
    settle(tab)
    tab.wait_for_function(FOCUSED)
    tab.keyboard.type("tell me a long story")  # no click was needed
    tab.keyboard.press("Enter")
    tab.get_by_text("word3", exact=False).first.wait_for()
    tab.keyboard.press("Escape")
    settle(tab, 2)
    tab.wait_for_function(FOCUSED)
    edit = tab.get_by_role("button", name="Edit the question")
    edit.first.focus()
    edit.first.press("Enter")
    tab.wait_for_function("document.activeElement.matches('[class*=st-key-editing-] textarea')")
    tab.keyboard.type(" and html")
    tab.keyboard.press("Escape")
    tab.locator('[class*="st-key-editing-"]').wait_for(state="detached")
    edit.last.focus()
    edit.last.press("Enter")
    tab.wait_for_function("document.activeElement.matches('[class*=st-key-editing-] textarea')")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("What colour is the ball?")
    tab.keyboard.press("Control+Enter")
    tab.get_by_text("The ball is red.").wait_for()
    settle(tab, 2)
    refining = tab.get_by_role("button", name="Corrections and refining")
    refining.dblclick()
    tab.locator(".st-key-refine").wait_for()
    tab.wait_for_timeout(1000)
    assert tab.locator(".st-key-refine").count()
    tab.keyboard.press("Escape")
    tab.get_by_text("The ball is red.").wait_for()


def test_what_is_compared_stays_on_its_side_and_the_input_below_it(tab) -> None:
    tab.get_by_text("Compare", exact=True).click()
    tab.get_by_role("combobox", name="Compared with", exact=False).wait_for()
    say(tab, "be silent")
    tab.get_by_text("I am not.").wait_for()
    settle(tab)
    empty = tab.get_by_text("gave an empty answer", exact=False).bounding_box()
    assert empty["x"] < tab.get_by_text("I am not.").bounding_box()["x"]
    answers = edges(tab, '[class*="st-key-assistant-"]')
    assert edges(tab, '[data-testid="stChatInput"]') == pytest.approx(answers, abs=1.5)
    tab.get_by_text("Compare", exact=True).click()  # as it was, for whoever comes next
    tab.get_by_role("combobox", name="Compared with", exact=False).wait_for(state="detached")


def test_answers_of_other_models(chromium, tmp_path: Path) -> None:
    endpoint = Scripted(models=("qwen3-vl-8b",)).start()
    process, url = start_page(endpoint.url, tmp_path / "data", tmp_path / "log.txt")
    try:
        for tab in open_tab(chromium, url):
            upload(tab, TABLE)
            say(tab, "where is it, in JSON?")
            settle(tab)
            answer = tab.locator('[class*="st-key-assistant-"]').last
            assert shape(tab, '[class*="st-key-assistant-"] .stage .box').iou(Box(*BALL)) > 0.97
            assert "bbox" not in answer.inner_text() and "```" not in answer.inner_text()
            say(tab, "think aloud")
            settle(tab, 2)
            assert "<think>" not in answer.inner_text()
            answer.get_by_text("Thought first").click()
            answer.get_by_text("Is it the <b>ball</b>?").wait_for()
            say(tab, "think apart")
            settle(tab, 3)
            answer.get_by_text("Thought first").click()
            answer.get_by_text(THOUGHT).wait_for()
        # What nobody has said is not guessed, and not shown as signs either.
        endpoint.models = ("somebodys-model",)
        for tab in open_tab(chromium, url):
            upload(tab, TABLE)
            say(tab, "where is it, in tokens?")
            settle(tab)
            answer = tab.locator('[class*="st-key-assistant-"]').last
            assert endpoint.requests[-1]["model"] == "somebodys-model"
            assert answer.locator(".stage .box").count() == 0 and "<|" not in answer.inner_text()
            answer.get_by_role("combobox", name="Boxes of this model", exact=False).click()
            tab.get_by_role("option", name="0 to 1000 (Qwen", exact=False).click()
            tab.locator('[class*="st-key-assistant-"] .stage .box').wait_for()
            assert shape(tab, '[class*="st-key-assistant-"] .stage .box').iou(Box(*BALL)) > 0.97
    finally:
        process.terminate()
        process.wait(30)
        endpoint.shutdown()
