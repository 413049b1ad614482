"""Many answers, reloads and switches in one sitting: the page stays, and its log has nothing to complain of.

`FOURFOLD_SOAK=300` makes it a long one; without it some answers are enough to notice what always goes wrong.
"""

import os
import random
from pathlib import Path

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg

from tests.browser.conftest import PATIENCE, open_tab, start_page
from tests.ui.scripted import Scripted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(3600)]
TABLE = Path(__file__).parents[2] / "fourfold" / "samples" / "table.jpg"
ANSWERS = int(os.environ.get("FOURFOLD_SOAK", "8"))
QUESTIONS = (
    "[grounding] what is there",
    "[refer] give me the location of the bottle",
    "[detection] thing",
    "thanks!",
    "what colour is the ball?",
    "location of the ball",
    "a list please",
)
COMPLAINTS = ("does not exist anymore", "Traceback", "Error", "Couldn't find fragment")


def test_the_page_stays_through_answers_reloads_and_switches(chromium, tmp_path: Path) -> None:
    endpoint = Scripted(pause=0.02).start()
    process, url = start_page(endpoint.url, tmp_path / "data", tmp_path / "log.txt")
    dice = random.Random(ANSWERS)
    troubles: list[str] = []
    try:
        for tab in open_tab(chromium, url):
            tab.on("crash", lambda: troubles.append("the tab crashed"))
            tab.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
            try:
                sit(tab, dice)
            except Exception as error:
                error.add_note(tab.locator("body").aria_snapshot())
                raise
    finally:
        process.terminate()
        process.wait(30)
        endpoint.shutdown()
    assert len(endpoint.requests) >= ANSWERS
    log = (tmp_path / "log.txt").read_text("utf-8")
    complaints = [line for line in log.splitlines() if any(words in line for words in COMPLAINTS)]
    assert not complaints, complaints
    assert not troubles, troubles


def sit(tab, dice: random.Random) -> None:
    """Ask, and do in between what people do."""
    asked = 0  # in the conversation that is shown
    for number in range(ANSWERS):
        if asked == 0:
            tab.locator('.st-key-welcome input[type="file"]').set_input_files(TABLE)
            tab.locator(".st-key-pending .stage").wait_for()
        tab.locator('[data-test-script-state="notRunning"]').wait_for()  # nobody types that fast
        area = tab.locator('[data-testid="stChatInput"] textarea')
        area.fill(dice.choice(QUESTIONS))
        area.press("Enter")
        asked += 1
        if dice.random() < 0.2:  # in the middle of the answer
            tab.locator('[class*="st-key-user-"]').nth(asked - 1).wait_for()
            tab.wait_for_timeout(dice.randrange(400))
            tab.reload()
        tab.locator('[class*="st-key-acts-"]').nth(asked - 1).wait_for()
        stays(tab, number)
        match dice.random():
            case less if less < 0.15:
                tab.reload()
                tab.locator('[class*="st-key-acts-"]').nth(asked - 1).wait_for()
            case less if less < 0.3:
                tab.get_by_role("button", name="Corrections and refining").click()
                tab.locator(".st-key-refine").wait_for()
                tab.get_by_role("button", name="Back to the conversation").click()
                tab.locator('[class*="st-key-acts-"]').nth(asked - 1).wait_for()
            case less if less < 0.45:
                tab.get_by_role("button", name="Correct this answer").last.click()
                tab.locator(".st-key-correction .stage").wait_for()
                tab.get_by_role("button", name="Cancel").click()
                tab.locator(".st-key-correction").wait_for(state="detached")
            case less if less < 0.6 or asked > 8:
                tab.get_by_role("button", name="New chat").click()
                tab.get_by_text("What shall we look at?").wait_for()
                asked = 0
        stays(tab, number)


def stays(tab, number: int) -> None:
    """The page shows itself, and no framework's complaint."""
    tab.get_by_role("button", name="New chat").wait_for(timeout=PATIENCE)
    tab.locator('[data-testid="stChatInput"], .st-key-refine').first.wait_for()
    assert not tab.locator(
        '[data-testid="stException"], [data-testid="stAppViewContainer"] [role="alertdialog"]'
    ).count()
    assert not tab.get_by_text("Connection error").count()


def test_a_timer_that_comes_late_finds_what_it_asks_for(chromium, tmp_path: Path) -> None:
    """Where browser or server are busy, an answer may be asked for once more when it is whole and drawn elsewhere."""
    endpoint = Scripted(pause=0.05).start()
    process, url = start_page(endpoint.url, tmp_path / "data", tmp_path / "log.txt")
    timers: list[bytes] = []
    send = []
    try:
        for tab in open_tab(chromium, "about:blank", first=False):

            def listen(socket) -> None:
                server = socket.connect_to_server()
                send.append(server.send)

                def said(message: bytes) -> None:
                    if BackMsg.FromString(message).rerun_script.is_auto_rerun:
                        timers.append(message)
                    server.send(message)

                socket.on_message(said)
                server.on_message(socket.send)

            tab.route_web_socket("**/_stcore/stream", listen)
            tab.goto(url)
            tab.locator(".st-key-sample-0 button:enabled").first.wait_for()
            tab.locator('[data-testid="stChatInput"] textarea').fill("a list please")
            tab.keyboard.press("Enter")
            tab.locator('[class*="st-key-acts-"]').first.wait_for()
            assert timers
            for place in ("Corrections and refining", "New chat"):
                send[-1](timers[-1])
                tab.wait_for_timeout(500)
                tab.get_by_role("button", name=place).click()
                tab.wait_for_timeout(500)
                send[-1](timers[-1])
                tab.wait_for_timeout(500)
    finally:
        process.terminate()
        process.wait(30)
        endpoint.shutdown()
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert not [line for line in log.splitlines() if any(words in line for words in COMPLAINTS)]
