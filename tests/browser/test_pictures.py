"""Pictures in a real browser: every way in, several at once, pages, zoom, whole screen, saving, drawing anew."""

import base64
import io
import time
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from tests.assistant.images.test_isolated import HEIC, pdf
from tests.browser.conftest import PATIENCE, Served
from tests.browser.test_page import drag, sample, say, settle, shape, still
from tests.ui.scripted import BALL, BOTTLE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
TABLE = Path(__file__).parents[2] / "fourfold" / "samples" / "table.jpg"

_CARRY = """([events, place, files]) => {
    const carried = new DataTransfer();
    for (const [name, type, content] of files)
        carried.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name, { type }));
    const target = document.querySelector(place);
    for (const kind of events) {
        const given = { bubbles: true, cancelable: true };
        target.dispatchEvent(kind === "paste"
            ? new ClipboardEvent(kind, { ...given, clipboardData: carried })
            : new DragEvent(kind, { ...given, dataTransfer: carried }));
    }
}"""


def carry(tab, events: list[str], place: str, *files: tuple[str, bytes]) -> None:
    """Paste files into an element, or drop them on it."""
    told = [[name, "", base64.b64encode(content).decode()] for name, content in files]
    tab.evaluate(_CARRY, [events, place, told])


def paste(tab, *files: tuple[str, bytes]) -> None:
    tab.locator("html.fourfold-hears").wait_for(state="attached")
    tab.locator('[data-testid="stChatInput"] textarea').wait_for()
    carry(tab, ["paste"], '[data-testid="stChatInput"] textarea', *files)


def coloured(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(out, "PNG")
    return out.getvalue()


def sent(served: Served) -> list[Attachment]:
    """The pictures of the last question that was asked."""
    content = served.endpoint.requests[-1]["messages"][-1]["content"]
    parts = [] if isinstance(content, str) else content
    return [Attachment.from_data_uri(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]


def waiting(tab, count: int) -> None:
    """Wait until so many pictures are side by side."""
    tab.get_by_role("button", name=f"Picture {count}", exact=True).wait_for()


def test_paste_drop_plus_and_upload_are_equals(tab, served: Served) -> None:
    photo = TABLE.read_bytes()
    paste(tab, ("image.jpg", photo))
    tab.locator(".st-key-pending .stage").wait_for()
    carry(tab, ["dragenter", "dragover", "drop"], '[data-testid="stMain"]', ("IMG_1.HEIC", HEIC))
    waiting(tab, 2)
    with tab.expect_file_chooser() as chooser:
        tab.locator('[data-testid="stChatInputFileUploadButton"]').first.click()
    chooser.value.set_files(str(TABLE))
    waiting(tab, 3)
    # Each has its preview and its button, there are chips, and the one that is looked at can be drawn on.
    assert tab.get_by_role("button", name="Remove picture", exact=False).count() == 3
    assert tab.get_by_role("radio", name="Find", exact=False).count() >= 1
    tab.get_by_role("button", name="Remove picture 3").click()
    tab.get_by_role("button", name="Picture 3", exact=True).wait_for(state="detached")
    tab.get_by_role("button", name="Picture 1", exact=True).click()
    tab.get_by_text("picture 1 is asked about", exact=False).wait_for()
    drag(tab, tab.locator(".st-key-pending .stage"), BALL[:2], BALL[2:])
    tab.get_by_role("button", name="What is this?", exact=True).click()
    settle(tab)
    assert [picture.content for picture in sent(served)] == [photo]
    # Later questions of a conversation, too.
    tab.get_by_role("button", name="Remove all pictures").click()
    tab.locator(".st-key-pending").wait_for(state="detached")
    paste(tab, ("image.png", coloured("red")))
    tab.locator(".st-key-pending .stage").wait_for()
    say(tab, "What colour is the ball?")
    settle(tab, 2)
    assert [picture.decode().getpixel((9, 9)) for picture in sent(served)] == [(255, 0, 0)]


def test_of_several_pictures_the_one_that_is_named_is_sent(tab, served: Served) -> None:
    paste(tab, *((f"{colour}.png", coloured(colour)) for colour in ("red", "lime", "blue")))
    waiting(tab, 3)
    tab.get_by_text("looks at one picture at a time: picture 3 is asked about", exact=False).wait_for()
    say(tab, "What colour is the ball in picture 1?")
    settle(tab)
    assert [picture.decode().getpixel((9, 9)) for picture in sent(served)] == [(255, 0, 0)]
    assert served.endpoint.requests[-1]["messages"][-1]["content"][-1]["text"] == (
        "What colour is the ball in the picture?"
    )
    say(tab, "Is there a ball?")  # about the same: it is not sent again
    settle(tab, 2)
    assert sent(served) == []
    say(tab, "Compare picture 1 and picture 2")
    tab.get_by_text("looks at one picture at a time: ask about one", exact=False).first.wait_for()
    area = tab.locator('[data-testid="stChatInput"] textarea')
    end = time.monotonic() + PATIENCE / 1000
    while area.input_value() != "Compare picture 1 and picture 2":  # the words are not lost
        assert time.monotonic() < end
        time.sleep(0.1)


def test_more_pictures_than_a_question_takes_are_named(tab) -> None:
    paste(tab, *((f"photo{number}.png", coloured("red")) for number in range(12)))
    waiting(tab, 10)
    tab.get_by_text("10 pictures fit into one question. Left out: photo10.png, photo11.png.").first.wait_for()
    paste(tab, ("notes.txt", b"no picture"))
    tab.get_by_text("notes.txt is not an image", exact=False).first.wait_for()


def test_a_page_of_a_document_is_chosen(tab, served: Served) -> None:
    pages = (Image.new("RGB", (300, 400), colour) for colour in ("red", "lime", "blue"))
    paste(tab, ("report.pdf", pdf(*pages)))
    tab.get_by_text("3 pages. Which shall be looked at?", exact=False).wait_for()
    tab.get_by_role("button", name="Page 2", exact=True).click()
    tab.locator(".st-key-pending .stage").wait_for()
    tab.get_by_role("button", name="Done").click()
    tab.get_by_text("Which shall be looked at?", exact=False).wait_for(state="detached")
    say(tab, "What is it?")
    settle(tab)
    [page] = sent(served)
    red, green, blue = page.decode().getpixel((50, 50))
    assert page.media_type == "image/png" and green > 240 > 20 > max(red, blue)


def test_zoom_whole_screen_and_saving(tab) -> None:
    sample(tab, "Describe it and point")
    settle(tab)
    answer = tab.locator('[class*="st-key-assistant-"]')
    before = shape(tab, ".box[aria-label^='a green bottle']")
    answer.get_by_role("button", name="Zoom in").click()
    after = shape_beyond(tab, ".box[aria-label^='a green bottle']")
    assert after[2] - after[0] == pytest.approx(1.5 * (before.x2 - before.x1), abs=0.01)
    stage = answer.locator(".stage")
    drag(tab, stage, (0.5, 0.5), (0.6, 0.5))
    moved = shape_beyond(tab, ".box[aria-label^='a green bottle']")
    assert moved[0] - after[0] == pytest.approx(0.1, abs=0.02)
    stage.focus()
    stage.press("0")
    assert shape_beyond(tab, ".box[aria-label^='a green bottle']")[0] == pytest.approx(before.x1, abs=0.005)
    stage.press("+")
    assert answer.get_by_role("button", name="Zoom out").is_enabled()
    with tab.expect_download() as download:
        answer.get_by_role("button", name="Save with boxes").click()
    with Image.open(download.value.path()) as saved, Image.open(TABLE) as table:
        assert saved.format == "PNG" and saved.size == table.size
        x1, y1, x2, y2 = Box(*(round(100 * side) / 100 for side in BOTTLE)).to_pixels(*saved.size)
        green = (0, 158, 115)
        for at in ((x1, (y1 + y2) / 2), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2)):
            assert saved.convert("RGB").getpixel((round(at[0]), round(at[1]))) == green
    answer.get_by_role("button", name="Whole screen").click()
    tab.wait_for_function("""() => [...document.querySelectorAll('*')].some(
        e => e.shadowRoot?.fullscreenElement?.classList.contains('frame'))""")
    frame = still(stage)
    assert frame["width"] / frame["height"] == pytest.approx(4 / 3, abs=0.02)  # as the picture is
    assert frame["height"] > 850
    tab.evaluate("document.exitFullscreen()")


def shape_beyond(tab, selector: str) -> list[float]:
    """Sides of a box in parts of its stage, which it may exceed."""
    return tab.locator(selector).first.evaluate(
        """box => { const b = box.getBoundingClientRect(), s = box.closest('.stage').getBoundingClientRect();
        return [(b.left - s.left) / s.width, (b.top - s.top) / s.height,
                (b.right - s.left) / s.width, (b.bottom - s.top) / s.height]; }"""
    )


def test_the_picture_of_a_question_is_enlarged_by_a_click(tab) -> None:
    sample(tab, "What colour is the ball?")
    settle(tab)
    tab.get_by_role("button", name="Enlarge: Picture 1 of the question").press("Enter")
    tab.wait_for_function("""() => [...document.querySelectorAll('*')].some(
        e => e.shadowRoot?.fullscreenElement?.classList.contains('frame'))""")
    frame = still(tab.locator('[class*="st-key-user-"] .stage'))
    assert frame["height"] > 850 and frame["width"] / frame["height"] == pytest.approx(4 / 3, abs=0.02)
    tab.evaluate("document.exitFullscreen()")


def test_a_box_of_the_whole_picture_is_drawn_anew(tab) -> None:
    paste(tab, ("table.jpg", TABLE.read_bytes()))
    stage = tab.locator(".st-key-pending .stage")
    stage.wait_for()
    drag(tab, stage, (0.02, 0.02), (0.98, 0.98))
    assert shape(tab, ".st-key-pending .box").area > 0.9
    act = still(tab.get_by_role("button", name="What is this?", exact=True))
    frame = still(stage)
    assert frame["y"] < act["y"] < frame["y"] + frame["height"]  # at the rectangle, in sight
    drag(tab, stage, BALL[:2], BALL[2:])
    end = time.monotonic() + 20
    while shape(tab, ".st-key-pending .box").iou(Box(*BALL)) < 0.9:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert tab.locator(".st-key-pending .box").count() == 1
    x, y = (BALL[0] + BALL[2]) / 2, (BALL[1] + BALL[3]) / 2
    drag(tab, stage, (x, y), (x + 0.2, y))  # a small one is moved
    assert shape(tab, ".st-key-pending .box").x1 == pytest.approx(BALL[0] + 0.2, abs=0.03)


def test_boxes_are_not_painted_over_the_bars(tab) -> None:
    sample(tab, "Describe it and point")
    settle(tab)
    covered = tab.evaluate(
        """() => { const bar = document.querySelector('[data-testid="stBottomBlockContainer"]');
        const { left, right, top, bottom } = bar.getBoundingClientRect();
        const main = document.querySelector('[data-testid="stMain"]'), wrong = [];
        for (let by = 0; by < 600; by += 20) {
            main.scrollTop = by;
            for (let x = left + 5; x < right; x += 40)
                for (let y = top + 5; y < Math.min(bottom, innerHeight); y += 20) {
                    const hit = document.elementFromPoint(x, y);
                    if (!bar.contains(hit) && hit.shadowRoot) wrong.push([x, y]);
                }
        }
        return wrong; }"""
    )
    assert covered == []


def test_words_typed_during_an_answer_wait_for_it(tab, served: Served) -> None:
    area = tab.locator('[data-testid="stChatInput"] textarea')
    say(tab, "tell me a long story")
    tab.get_by_text("word3", exact=False).first.wait_for()
    say(tab, "how many are there?")
    tab.get_by_text("Asked when this answer is complete: how many are there?", exact=False).wait_for()
    tab.get_by_role("button", name="Take it back").click()
    tab.get_by_text("Asked when this answer", exact=False).wait_for(state="detached")
    end = time.monotonic() + PATIENCE / 1000
    while area.input_value() != "how many are there?":
        assert time.monotonic() < end
        time.sleep(0.1)
    area.press("Enter")
    tab.get_by_text("Asked when this answer is complete", exact=False).wait_for()
    tab.get_by_role("button", name="Stop").click()
    settle(tab, 2)
    assert served.endpoint.requests[-1]["messages"][-1]["content"] == "how many are there?"


def test_a_draft_belongs_to_its_conversation_and_survives_a_reload(tab) -> None:
    area = tab.locator('[data-testid="stChatInput"] textarea')
    say(tab, "What colour is the ball?")
    settle(tab)
    area.fill("and the bottle")
    tab.get_by_role("button", name="New chat").click()
    tab.get_by_text("What shall we look at?").wait_for()
    wait_for_words(area, "")
    area.fill("something new")
    tab.reload()
    tab.get_by_text("What shall we look at?").wait_for()
    wait_for_words(area, "something new")
    tab.locator('.st-key-conversations [class*="st-key-open-"] button').first.click()
    tab.get_by_text("The ball is red.").wait_for()
    wait_for_words(area, "and the bottle")


def wait_for_words(area, words: str) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while area.input_value() != words:
        assert time.monotonic() < end, area.input_value()
        time.sleep(0.1)


def test_a_chip_is_for_one_question_and_enter_asks_what_needs_no_words(tab, served: Served) -> None:
    area = tab.locator('[data-testid="stChatInput"] textarea')
    paste(tab, ("table.jpg", TABLE.read_bytes()))
    tab.locator(".st-key-pending .stage").wait_for()
    for number in (1, 2):
        tab.get_by_role("radio", name="Describe and point").click()
        tab.get_by_role("button", name="Describe it and point").wait_for()
        tab.wait_for_function("() => document.activeElement.matches('[data-testid=stChatInput] textarea')")
        tab.keyboard.press("Enter")
        settle(tab, number)
        asked = served.endpoint.requests[-1]["messages"][-1]["content"]
        asked = asked if isinstance(asked, str) else asked[-1]["text"]
        assert asked.startswith("[grounding]")
        lit = tab.locator('.st-key-task [role="radio"][aria-checked="true"]')
        lit.get_by_text("Ask", exact=True).wait_for()
        tab.locator('[data-testid="stChatInput"] textarea[placeholder="Ask about the picture"]').wait_for()
        tab.get_by_role("button", name="Describe it and point").wait_for(state="detached")
    area.fill("Is there a ball?")
    area.press("Control+Enter")
    settle(tab, 3)
    assert served.endpoint.requests[-1]["messages"][-1]["content"] == "Is there a ball?"
