"""Takes the pictures of docs/images: `python -m tests.browser.screenshots [--endpoint URL] [--out DIR]`.

Without an endpoint the answers are those of `tests.ui.scripted`; with one (`fourfold serve`) they are the model's own.
An endpoint's key comes from FOURFOLD_API_KEY. Needs Chromium, and Playwright's Python package.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import PATIENCE, sample, start_page
from tests.ui.scripted import BALL, Scripted

DESK, PHONE = {"width": 1160, "height": 780}, {"width": 390, "height": 844}
LARGEST = 250_000  # bytes of a picture
IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", help="whose answers are shown; default: scripted ones")
    parser.add_argument("--out", type=Path, default=IMAGES)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scripted = None if given.endpoint else Scripted(pause=0.01, eyes=True).start()
    endpoint = given.endpoint or scripted.url
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("install Chromium first (apt-get install chromium), or name it in CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        process, url = start_page(endpoint, Path(folder) / "data", Path(folder) / "log.txt")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            for name, options in {
                "page": {"viewport": DESK},
                "page-dark": {"viewport": DESK, "color_scheme": "dark"},
                "page-phone": {"viewport": PHONE, "has_touch": True, "device_scale_factor": 1.5},
            }.items():
                context = browser.new_context(**options)
                context.set_default_timeout(5 * PATIENCE if given.endpoint else PATIENCE)
                tab = context.new_page()
                tab.goto(url)
                tab.get_by_role("button", name="Describe it and point").first.wait_for()
                if given.endpoint and name == "page":
                    own(tab, given.out)
                take(name, tab, given.out)
                context.close()
        finally:
            browser.close()
            process.terminate()
            process.wait(30)


def own(tab: Page, out: Path) -> None:
    """README's first picture: where the model itself points."""
    tab.set_viewport_size({"width": DESK["width"], "height": 960})  # the question, too
    tab.get_by_role("button", name="Draw on it yourself").first.click()
    tab.locator(".st-key-pending .stage").wait_for()
    tab.locator('[data-testid="stChatInput"] textarea').fill("Where is the bottle?")
    tab.keyboard.press("Enter")
    settle(tab)
    rest(tab, '[class*="st-key-assistant-"]')
    shoot(tab, out / "page-own.png")
    tab.set_viewport_size(DESK)
    tab.get_by_role("button", name="New chat").click()
    tab.get_by_role("button", name="Describe it and point").first.wait_for()


def take(name: str, tab: Page, out: Path) -> None:
    """The pictures of one window."""
    if name == "page":
        shoot(tab, out / "page-first.png")
    sample(tab, "Describe it and point")
    settle(tab)
    bring(tab, '[class*="st-key-assistant-"]')
    shoot(tab, out / f"{name}-answer.png")
    if name == "page":
        tab.get_by_role("button", name="Correct this answer").click()
        stage = tab.locator(".st-key-correction .stage")
        stage.wait_for()
        rest(tab, ".st-key-correction .stage")
        tab.locator(".st-key-correction .name").nth(3).wait_for()
        bring(tab, ".st-key-correction")
        rest(tab, ".st-key-correction .stage")
        drag(tab, stage, (0.01, 0.58), (0.99, 0.98))
        tab.locator(".st-key-correction .name").nth(4).fill("a wooden table")
        tab.locator(".st-key-correction .name").nth(4).press("Enter")
        tab.mouse.move(2, 2)
        shoot(tab, out / "page-correct.png")
        tab.get_by_text("An adapter may be trained with it").click()
        tab.get_by_role("button", name="Save the correction").click()
        tab.locator(".st-key-correction").wait_for(state="detached")
        tab.get_by_role("button", name="Corrections and refining").click()
        tab.locator(".st-key-refining .stage").first.wait_for()
        tab.wait_for_timeout(6000)  # until the toast is gone
        shoot(tab, out / "page-refine.png")
        tab.get_by_role("button", name="New chat").click()
        tab.get_by_role("button", name="Draw on it yourself").first.click()
        rest(tab, ".st-key-pending .stage")
        drag(tab, tab.locator(".st-key-pending .stage"), (BALL[0], BALL[1]), (BALL[2], BALL[3]))
        tab.get_by_role("button", name="What is this?", exact=True).first.wait_for()
        tab.wait_for_timeout(1500)
        if tab.get_by_label("Or show it once").count():  # a model with eyes
            tab.get_by_label("Or show it once").fill("our ball")
            shoot(tab, out / "page-once.png")
    elif name == "page-dark":
        tab.get_by_role("button", name="New chat").click()
        tab.get_by_role("button", name="Draw on it yourself").first.click()
        stage = tab.locator(".st-key-pending .stage")
        rest(tab, ".st-key-pending .stage")
        drag(tab, stage, (BALL[0], BALL[1]), (BALL[2], BALL[3]))
        tab.get_by_role("button", name="What is this?", exact=True).first.wait_for()
        shoot(tab, out / "page-dark-point.png")
        if tab.get_by_text("Compare", exact=True).count():
            tab.get_by_role("button", name="New chat").click()
            tab.get_by_text("Compare", exact=True).click()
            other, alone = tab.locator(".st-key-other"), tab.get_by_text("serves one model only", exact=False)
            other.or_(alone).first.wait_for()
            if other.count():
                sample(tab, "What colour is the ball?")
                settle(tab)
                shoot(tab, out / "page-dark-compare.png")
            tab.get_by_text("Compare", exact=True).click()  # as it was, for the next window
            other.or_(alone).first.wait_for(state="detached")


def settle(tab: Page) -> None:
    """Wait for the whole answer."""
    tab.locator('[class*="st-key-acts-"]').last.wait_for()
    tab.locator('[data-testid="stChatInput"] textarea:not([disabled])').wait_for()
    tab.locator('[role="radiogroup"]').last.wait_for()
    tab.mouse.move(2, 2)


def rest(tab: Page, selector: str) -> None:
    """Wait until an element has stopped moving."""
    last, end = None, time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        now = tab.locator(selector).first.bounding_box()
        if now is not None and now == last:
            return
        last = now
        tab.wait_for_timeout(400)


def bring(tab: Page, selector: str) -> None:
    """Scroll so that an element begins at the top, below the header."""
    rest(tab, selector)
    tab.locator(selector).last.evaluate(
        """element => { const main = document.querySelector('[data-testid="stMain"]');
        main.dispatchEvent(new WheelEvent('wheel', {deltaY: -1}));
        main.scrollTop += element.getBoundingClientRect().top - 70; }"""
    )
    tab.wait_for_timeout(500)


def drag(tab: Page, stage, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse over a picture, in parts of it."""
    frame = stage.bounding_box()
    at = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (start, end)]
    tab.mouse.move(*at[0])
    tab.mouse.down()
    tab.mouse.move(*at[1], steps=5)
    tab.mouse.up()


def shoot(tab: Page, file: Path) -> None:
    """Save the window, a little smaller where it would be too large for a repository."""
    tab.wait_for_timeout(1500)
    tab.screenshot(path=file)
    with Image.open(file) as image:
        window = image.convert("RGB")
    scale = 1.0
    while True:
        size = round(window.width * scale), round(window.height * scale)
        (window if scale == 1 else window.resize(size, Image.Resampling.LANCZOS)).save(file, optimize=True)
        if file.stat().st_size <= LARGEST:
            break
        scale -= 0.05
    print(f"{file}  {size[0]} x {size[1]}, {file.stat().st_size // 1000} kB", flush=True)


if __name__ == "__main__":
    main()
