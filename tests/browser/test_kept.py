"""Nothing is lost, and a correction works at once, in a real browser."""

import subprocess
import sys
from pathlib import Path

import pytest

from fourfold.assistant.chat.history import ChatHistory
from fourfold.serving.api.server import bind
from tests.browser.conftest import Served, open_tab, sample, start_page
from tests.browser.test_page import say, settle
from tests.ui.scripted import Scripted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
TABLE = Path(__file__).parents[2] / "fourfold" / "samples" / "table.jpg"


# The name that the choice of models shows, which may be a field's value.
ANOTHER = """() => [...document.querySelectorAll(".st-key-header input, .st-key-header [role='combobox']")].some(
    (field) => [field.value, field.textContent, field.ariaLabel].join(" ").includes("another-model"))"""


def upload(tab, file: Path) -> None:
    """Put a picture into the first screen's uploader."""
    first = tab.get_by_test_id("stMainBlockContainer").locator('[data-testid="stFileUploaderDropzoneInput"]')
    first.set_input_files(str(file))
    tab.locator(".st-key-pending .stage").wait_for()


def test_a_picture_that_waits_belongs_to_its_conversation(tab) -> None:
    say(tab, "What colour is the ball?")
    settle(tab)
    tab.get_by_role("button", name="New chat").click()
    tab.get_by_text("What shall we look at?").wait_for()
    upload(tab, TABLE)
    tab.locator('[class*="st-key-open-"] button', has_text="What colour is the ball?").first.click()
    tab.get_by_text("The ball is red.").wait_for()
    tab.locator(".st-key-pending").wait_for(state="detached")
    tab.get_by_role("button", name="New chat").click()  # where a question was begun
    tab.locator(".st-key-pending .stage").wait_for()
    tab.get_by_role("button", name="New chat").click()  # asked for once more, it is empty
    tab.get_by_text("What shall we look at?").wait_for()


def test_a_corrected_answer_stands_at_once_and_its_original_is_one_arrow_away(tab, served: Served) -> None:
    upload(tab, TABLE)
    say(tab, "How many pears are there?")
    settle(tab)
    tab.get_by_role("button", name="Correct this answer").click()
    panel = tab.locator(".st-key-correction")
    panel.get_by_label("In words").fill("None at all.")
    panel.get_by_label("In words").press("Tab")
    panel.get_by_role("button", name="Save the correction").click()
    panel.wait_for(state="detached")
    answer = tab.locator(".st-key-assistant-0")
    answer.get_by_text("None at all.").wait_for()
    answer.get_by_text("Corrected by you").wait_for()
    answer.get_by_text("2 / 2").wait_for()
    asked = len(served.endpoint.requests)
    say(tab, "how many pears are there?")
    tab.get_by_text("Remembered from your correction").wait_for()
    settle(tab, 2)
    assert len(served.endpoint.requests) == asked
    answer.get_by_role("button", name="Earlier version of the answer").click()
    answer.get_by_text("1 / 2").wait_for()
    assert answer.get_by_text("None at all.").count() == 0


def test_a_question_to_an_endpoint_that_is_gone_keeps_its_place_and_its_picture(chromium, tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tests.ui.scripted", str(port), "0.01"]
    endpoint = subprocess.Popen(command)
    page, url = start_page(f"http://127.0.0.1:{port}/v1", tmp_path / "data", tmp_path / "log.txt")
    try:
        for tab in open_tab(chromium, url):
            sample(tab, "Where is the bottle?")
            settle(tab)
            endpoint.kill()
            endpoint.wait()
            tab.get_by_role("button", name="New chat").click()
            tab.get_by_text("What shall we look at?").wait_for()
            upload(tab, TABLE)
            say(tab, "What colour is the ball?")
            again = tab.get_by_role("button", name="Try again")
            again.wait_for()
            error = tab.locator('[class*="st-key-assistant-"] [data-testid="stAlert"]')
            assert f"http://127.0.0.1:{port}/v1 does not answer" in error.inner_text()
            endpoint = subprocess.Popen(command)
            tab.reload()
            again.wait_for()
            tab.locator(".st-key-user-0 img, .st-key-user-0 canvas, .st-key-user-0 .stage").first.wait_for()
            say(tab, "How many things are there?")  # the next one is not asked blind
            tab.locator(".st-key-acts-1").wait_for()
            tab.get_by_role("button", name="Try again").click()
            tab.get_by_text("The ball is red.").wait_for()
            history = ChatHistory(tmp_path / "data" / "history.sqlite")
            told = history.versions(history.conversations()[0].id)
            assert [version.message.type for version in told] == ["human", "human", "ai", "ai"]
    finally:
        page.terminate()
        endpoint.kill()
        page.wait(30)


def test_an_endpoint_that_was_chosen_stays_after_a_reload(chromium, tmp_path: Path) -> None:
    first, other = Scripted(pause=0.01).start(), Scripted(pause=0.01, models=("another-model",)).start()
    page, url = start_page(first.url, tmp_path / "data", tmp_path / "log.txt")
    try:
        for tab in open_tab(chromium, url):
            tab.get_by_text("Connection", exact=True).click()
            tab.get_by_label("Another endpoint").fill(other.url)
            tab.get_by_label("Its key").fill("SECRET KEY")
            tab.get_by_role("button", name="Connect", exact=False).last.click()
            tab.wait_for_function(ANOTHER)
            tab.reload()
            tab.wait_for_function(ANOTHER)
            files = [file for file in (tmp_path / "data").rglob("*") if file.is_file()]
            assert not any(b"SECRET" in file.read_bytes() for file in files)
    finally:
        page.terminate()
        page.wait(30)
        first.shutdown()
        other.shutdown()
