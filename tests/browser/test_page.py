"""What a person does with the page, in a real browser."""

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.serving.api.server import bind
from tests.browser.conftest import PATIENCE, Served, open_tab, sample, start_page
from tests.ui.scripted import BALL, BOTTLE, LONG, Scripted, box

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
TABLE = Path(__file__).parents[2] / "fourfold" / "samples" / "table.jpg"
ORANGE = (230, 159, 0)


def say(tab, words: str) -> None:
    """Type a question and send it."""
    area = tab.locator('[data-testid="stChatInput"] textarea:not([disabled])')
    area.fill(words)
    area.press("Enter")


def settle(tab, turns: int = 1) -> None:
    """Wait until the last answer is there."""
    tab.locator('[class*="st-key-acts-"]').nth(turns - 1).wait_for()
    tab.locator('[data-testid="stChatInput"] textarea:not([disabled])').wait_for()


def upload(tab, *files: Path) -> None:
    """Put pictures into the first screen's uploader."""
    tab.locator('[data-testid="stFileUploaderDropzoneInput"]').set_input_files([str(file) for file in files])
    tab.locator(".st-key-pending .stage").wait_for()


def drag(tab, stage, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse, from one place of a picture to another, in parts of it."""
    stage.scroll_into_view_if_needed()
    frame = still(stage)
    at = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, end)]
    tab.mouse.move(*at[0])
    tab.mouse.down()
    tab.mouse.move(*at[1], steps=6)
    tab.mouse.up()


def still(element):
    """Where an element is, once it has stopped moving."""
    last, same = None, 0
    for _ in range(150):
        now = element.bounding_box()
        same = same + 1 if now is not None and now == last else 0
        if same == 3:
            return now
        last = now
        time.sleep(0.15)
    raise AssertionError("the element does not come to rest")


def scrolled_by_growing(tab) -> float:
    """How far the conversation scrolls by itself, in pixels, when something appears at its end."""
    return tab.evaluate(
        """async () => {
            const main = document.querySelector('[data-testid="stMain"]'), before = main.scrollTop;
            const more = document.createElement('div');
            more.style.height = '3000px';
            main.querySelector('[data-testid="stMainBlockContainer"]').append(more);
            for (let frame = 0; frame < 5; frame++) await new Promise(requestAnimationFrame);
            const by = main.scrollTop - before;
            more.remove();
            return by;
        }"""
    )


def shape(tab, selector: str) -> Box:
    """A box on the screen, in parts of its picture, by the geometry that the browser computed."""
    end = time.monotonic() + PATIENCE / 1000
    sides = None
    while sides is None:  # the page may be drawing itself anew: then the box that was found hangs nowhere any more
        assert time.monotonic() < end
        sides = tab.locator(selector).first.evaluate(
            """box => { const stage = box.closest('.stage');
            if (!stage) return null;
            const b = box.getBoundingClientRect(), s = stage.getBoundingClientRect();
            return [(b.left - s.left) / s.width, (b.top - s.top) / s.height,
                    (b.right - s.left) / s.width, (b.bottom - s.top) / s.height]; }"""
        )
    return Box(*(min(max(side, 0.0), 1.0) for side in sides))


def is_near(pixel, colour, tolerance: int = 40) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel[:3], colour, strict=True))


def test_upload_ask_point_identify_correct(tab, served: Served) -> None:
    upload(tab, TABLE)
    say(tab, "What colour is the ball?")
    tab.get_by_text("The ball is red.").wait_for()
    settle(tab)
    assert served.endpoint.requests[-1]["messages"][-1]["content"][0]["type"] == "image_url"

    # Where is it: the box is drawn where the answer says.
    tab.get_by_role("radio", name="Find", exact=False).first.click()
    tab.locator('[data-testid="stChatInput"] textarea[placeholder*="Name one thing"]').wait_for()
    say(tab, "the bottle")
    tab.locator(".stage .box").wait_for()
    settle(tab, 2)
    said = Box(*(round(100 * side) / 100 for side in BOTTLE))
    assert shape(tab, ".stage .box").iou(said) > 0.97
    tab.mouse.move(5, 5)  # nothing is hovered over
    stage = tab.locator(".stage:not(.still)").first
    still(stage)
    pixels = Image.open(io.BytesIO(stage.screenshot())).convert("RGB")
    x1, y1, x2, y2 = said.to_pixels(*pixels.size)
    middle_x, middle_y = (x1 + x2) / 2, y1 + (y2 - y1) * 0.6
    on_the_line = [(x1 + 1, middle_y), (x2 - 2, middle_y), (middle_x, y1 + 1), (middle_x, y2 - 2)]
    beside_it = [(x1 - 8, middle_y), (x2 + 8, middle_y), (middle_x, y2 + 8), (middle_x, middle_y)]
    for x, y in on_the_line:
        around = [pixels.getpixel((int(x) + dx, int(y) + dy)) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        assert any(is_near(pixel, ORANGE) for pixel in around), (x, y, around)
    for x, y in beside_it:
        assert not is_near(pixels.getpixel((int(x), int(y))), ORANGE), (x, y)
    # The phrase in the text has the colour of its box.
    colours = tab.evaluate(
        """() => { const root = [...document.querySelectorAll('*')].map(e => e.shadowRoot).find(
            r => r && r.querySelector('.phrase'));
        return ['.phrase', '.box'].map(s => root.querySelector(s).style.getPropertyValue('--colour')); }"""
    )
    assert colours[0] == colours[1] != ""

    # Draw a rectangle, ask what it holds.
    tab.get_by_role("radio", name="What is here?", exact=False).click()
    pointing = tab.locator(".st-key-pointing .stage")
    pointing.wait_for()
    drag(tab, pointing, BALL[:2], BALL[2:])
    tab.get_by_role("button", name="What is this?", exact=True).first.click()
    settle(tab, 3)
    words = served.endpoint.requests[-1]["messages"][-1]["content"]
    assert words.startswith("[identify] what object is in this location {<")
    numbers = [int(part.rstrip(">}")) / 100 for part in words.partition("{")[2].split("<") if part]
    assert Box(*numbers).iou(Box(*BALL)) > 0.9

    # Correct the bottle's box.
    tab.get_by_role("button", name="Correct this answer").nth(1).click()
    panel = tab.locator(".st-key-correction")
    panel.locator(".stage .box").wait_for()
    assert scrolled_by_growing(tab) == 0  # or the picture would slide away under a hand that draws on it
    middle = ((BOTTLE[0] + BOTTLE[2]) / 2, (BOTTLE[1] + BOTTLE[3]) / 2)
    drag(tab, panel.locator(".stage"), middle, (middle[0] - 0.2, middle[1] + 0.05))
    panel.get_by_role("button", name="Undo").and_(tab.locator(":enabled")).wait_for()
    moved = shape(tab, ".st-key-correction .stage .box")
    panel.get_by_label("Name of box 1").fill("the green bottle")
    panel.get_by_label("Name of box 1").press("Enter")
    panel.locator(".tag", has_text="the green bottle").wait_for()
    panel.get_by_text("An adapter may be trained with it").click()
    tab.get_by_role("button", name="Save the correction").click()
    panel.wait_for(state="detached")
    kept = CorrectionStore(served.data / "refine").list()[-1]
    assert kept.question == "[refer] give me the location of the bottle"
    assert kept.verdict == "down" and kept.consent and kept.chosen is None
    assert kept.boxes is not None and [entry.phrase for entry in kept.boxes] == ["the green bottle"]
    assert kept.boxes[0].box.iou(moved) > 0.97
    assert abs(kept.boxes[0].box.x1 - (said.x1 - 0.2)) < 0.02
    assert CorrectionStore(served.data / "refine").image(kept.image).content == TABLE.read_bytes()

    # A reload brings the conversation back.
    tab.reload()
    settle(tab, 3)
    assert tab.get_by_text("The ball is red.").is_visible()
    assert tab.locator(".stage .box").count() >= 1


def test_boxes_are_shown_and_hidden_together(tab) -> None:
    sample(tab, "Describe it and point")
    settle(tab)
    assert tab.locator(".stage .box").count() == 4
    tab.locator(".phrase", has_text="a blue box").hover()
    assert tab.locator(".box.lit").count() == 1
    assert tab.locator(".box.dim").count() == 3
    chip = tab.locator(".chip", has_text="a window")
    chip.focus()
    chip.press("Enter")
    tab.locator(".box.off").wait_for(state="attached")
    assert tab.locator('.chip[aria-pressed="false"]', has_text="a window").count() == 1
    assert tab.locator(".phrase.off", has_text="a window").count() == 1


def test_pointing_by_keyboard_and_by_touch(chromium, served: Served) -> None:
    for tab in open_tab(chromium, served.url, has_touch=True, viewport={"width": 390, "height": 844}):
        upload(tab, TABLE)
        add = tab.get_by_role("button", name="Add a rectangle")
        add.focus()
        add.press("Enter")
        tab.locator(".stage .box").wait_for()
        before = shape(tab, ".stage .box")
        for _ in range(5):
            tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("Shift+ArrowDown")
        after = shape(tab, ".stage .box")
        assert abs(before.x1 - after.x1 - 0.05) < 0.005
        assert abs(after.y2 - before.y2 - 0.01) < 0.005
        tab.keyboard.press("Delete")
        tab.locator(".stage .box").wait_for(state="detached")

        stage = tab.locator(".st-key-pending .stage")
        stage.scroll_into_view_if_needed()
        frame = still(stage)
        finger = tab.context.new_cdp_session(tab)
        points = [(BOTTLE[0], BOTTLE[1]), (0.78, 0.5), (BOTTLE[2], BOTTLE[3])]
        for kind, (x, y) in zip(("touchStart", "touchMove", "touchMove"), points, strict=True):
            at = {"x": frame["x"] + x * frame["width"], "y": frame["y"] + y * frame["height"]}
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        tab.get_by_role("button", name="What is this?", exact=True).first.wait_for()
        assert shape(tab, ".stage .box").iou(Box(*BOTTLE)) > 0.9


def test_a_thing_is_shown_once_by_a_rectangle_and_a_name(chromium, tmp_path: Path) -> None:
    endpoint = Scripted(eyes=True).start()
    endpoint.shown = {"Rex"}  # it reads the page's store
    process, url = start_page(endpoint.url, tmp_path / "data", tmp_path / "log.txt")
    try:
        for tab in open_tab(chromium, url):
            upload(tab, TABLE)
            drag(tab, tab.locator(".st-key-pending .stage"), BALL[:2], BALL[2:])
            tab.get_by_label("Or show it once").fill("Rex")
            tab.get_by_role("button", name="Remember it").click()
            tab.get_by_text("Rex is known by sight", exact=False).first.wait_for()
            store = ConceptStore(tmp_path / "data" / "refine")
            [example] = store.get("Rex").examples
            assert example.positive and example.boxes[0].iou(Box(*BALL)) > 0.9
            tab.get_by_role("button", name="Corrections and refining").click()
            tab.get_by_role("tab", name="Things shown once").click()
            with tab.expect_download() as download:
                tab.locator(".st-key-export-concepts button").click()
            [line] = Path(download.value.path()).read_text("utf-8").splitlines()
            assert json.loads(line)["name"] == "Rex" and json.loads(line)["image"].startswith("data:image/")
            tab.locator(".st-key-forget-concept-0 button").click()
            tab.get_by_role("dialog").get_by_role("button", name="Forget").click()
            tab.get_by_text("Nothing was shown yet", exact=False).wait_for()
            assert store.list() == []
    finally:
        process.kill()
        endpoint.shutdown()


def test_stop_a_long_answer(tab, served: Served) -> None:
    served.endpoint.hung_up.clear()
    say(tab, "tell me a long story")
    tab.get_by_text("word3", exact=False).first.wait_for()
    tab.get_by_role("button", name="Stop").click()
    settle(tab)
    assert served.endpoint.hung_up.wait(PATIENCE / 1000)  # the endpoint is not left computing
    tab.get_by_text("stopped", exact=False).first.wait_for()
    history = ChatHistory(served.data / "history.sqlite")
    stored = history.messages(history.conversations("long story")[0].id)[-1]
    assert "word3" in stored.text and len(stored.text) < len(LONG)
    assert stored.response_metadata["fourfold"]["finish_reason"] == "cancelled"


def test_answers_cannot_do_anything_but_be_read(tab) -> None:
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    say(tab, "html please")
    settle(tab)
    answer = tab.locator('[class*="st-key-assistant-"]').last
    assert "<img src=x onerror=" in answer.inner_text()
    assert answer.locator("img").count() == 0 and answer.locator("b").count() == 0
    assert tab.title() == "Fourfold"
    assert not [url for url in asked if "leak" in url]


def test_edit_and_another_answer(tab, served: Served) -> None:
    say(tab, "a list please")
    settle(tab)
    assert tab.locator('[class*="st-key-assistant-"] li').count() == 3
    tab.get_by_role("button", name="Another answer").click()
    tab.get_by_text("temperature 0.7", exact=False).first.wait_for()
    assert served.endpoint.requests[-1]["temperature"] == 0.7
    assert scrolled_by_growing(tab) > 0  # it is followed, although a button was pressed
    tab.get_by_role("button", name="Edit the question").focus()
    tab.get_by_role("button", name="Edit the question").press("Enter")
    tab.get_by_label("Your question").fill("What colour is the ball?")
    tab.get_by_role("button", name="Send", exact=True).click()
    tab.get_by_text("The ball is red.").wait_for()
    settle(tab)
    assert len(served.endpoint.requests[-1]["messages"]) == 1
    assert tab.locator('[class*="st-key-user-"]').count() == 1


def test_side_by_side(tab, served: Served) -> None:
    tab.get_by_text("Compare", exact=True).click()
    tab.get_by_role("combobox", name="Compared with", exact=False).wait_for()
    sample(tab, "What colour is the ball?")
    tab.get_by_text("Red. It is a shiny red ball.").wait_for()
    settle(tab)
    assert tab.get_by_text("The ball is red.").is_visible()
    assert {request["model"] for request in served.endpoint.requests[-2:]} == {"fourfold-mini", "fourfold-tuned"}
    tab.get_by_role("button", name="Go on with this answer").click()
    history = ChatHistory(served.data / "history.sqlite")
    conversation = history.conversations()[0].id
    end = time.monotonic() + PATIENCE / 1000
    while history.messages(conversation)[-1].text != "Red. It is a shiny red ball.":
        assert time.monotonic() < end
        time.sleep(0.2)
    tab.get_by_text("Compare", exact=True).click()  # as it was, for whoever comes next
    tab.get_by_role("combobox", name="Compared with", exact=False).wait_for(state="detached")


def test_keep_nothing(tab, served: Served) -> None:
    tab.get_by_text("Privacy", exact=True).click()
    tab.get_by_text("Keep nothing", exact=True).click()
    tab.get_by_text("Nothing is kept").wait_for()
    say(tab, "what about a unicorn, html?")
    settle(tab)
    assert tab.get_by_role("button", name="Good answer").count() == 0
    assert "c=" not in tab.url
    files = [file for file in served.data.rglob("*") if file.is_file()]
    assert files and not [file for file in files if b"unicorn" in file.read_bytes()]
    tab.get_by_text("Keep nothing", exact=True).click()
    tab.get_by_text("Nothing is kept").wait_for(state="detached")
    assert ChatHistory(served.data / "history.sqlite").conversations("unicorn") == []


def test_conversations_are_renamed_exported_and_deleted_with_their_corrections(tab, served: Served) -> None:
    sample(tab, "What colour is the ball?")
    settle(tab)
    tab.get_by_role("button", name="Good answer").click()
    tab.get_by_text("No adapter is trained with it", exact=False).first.wait_for()
    history, store = ChatHistory(served.data / "history.sqlite"), CorrectionStore(served.data / "refine")
    name, records = history.conversations()[0].id, store.count()

    def choose(wish: str) -> None:
        tab.locator(f".st-key-menu-{name} button").click()
        tab.get_by_role("menuitem", name=wish).click()
        tab.get_by_role("dialog").wait_for()

    choose("Rename")
    tab.get_by_label("Title").fill("<b>My *ball*</b>")
    tab.get_by_role("dialog").get_by_role("button", name="Rename").click()
    tab.get_by_role("button", name="<b>My *ball*</b>").wait_for()
    choose("Export")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        files = archive.namelist()
        assert json.loads(archive.read("conversation.json"))["title"] == "<b>My *ball*</b>"
    assert {"conversation.json", "conversation.md"} < set(files) and any(file.endswith(".jpg") for file in files)
    tab.keyboard.press("Escape")
    tab.get_by_role("dialog").wait_for(state="detached")
    choose("Delete")
    tab.get_by_role("dialog").get_by_role("button", name="Delete").click()
    tab.get_by_role("dialog").wait_for(state="detached")
    tab.get_by_text("What shall we look at?").wait_for()
    assert name not in [info.id for info in history.conversations()]
    assert store.count() == records - 1


def test_endpoint_killed_in_the_middle_of_an_answer(chromium, tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tests.ui.scripted", str(port), "0.1"]
    first = subprocess.Popen(command)
    process, url = start_page(f"http://127.0.0.1:{port}/v1", tmp_path / "data", tmp_path / "log.txt")
    second = None
    try:
        for tab in open_tab(chromium, url):
            upload(tab, TABLE)
            say(tab, "tell me a long story")
            tab.get_by_text("word3", exact=False).first.wait_for()
            first.kill()
            first.wait()
            settle(tab)
            told = tab.get_by_text("The connection broke off in the middle of the answer", exact=False)
            told.or_(tab.get_by_text("it may be unfinished", exact=False)).first.wait_for()  # as the socket was closed
            assert tab.get_by_text("word3", exact=False).first.is_visible()  # what had come is still there
            second = subprocess.Popen([*command[:-1], "0"])
            tab.get_by_role("button", name="Another answer").click()
            tab.get_by_text("word399", exact=False).wait_for()
            settle(tab)
    finally:
        for running in (first, second, process):
            if running is not None:
                running.kill()


def test_box_of_the_script_is_what_the_tests_expect() -> None:
    assert box(BOTTLE) == "{<70><23><86><78>}"
