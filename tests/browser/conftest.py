"""The page in headless Chromium, against an endpoint whose answers are known."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.ui.scripted import Scripted

CALL = pytest.StashKey[pytest.TestReport]()
PATIENCE = 120_000  # milliseconds; a test machine may be busy with something else


@dataclass(frozen=True)
class Served:
    """A page that runs.

    Attributes:
        url: of the page.
        data: the directory of its conversations and corrections.
        endpoint: that it asks.
    """

    url: str
    data: Path
    endpoint: Scripted


def start_page(endpoint: str, data: Path, log: Path) -> tuple[subprocess.Popen, str]:
    """Run `fourfold ui` and wait until it answers."""
    command = [sys.executable, "-m", "fourfold", "ui", "--endpoint", endpoint, "--headless", "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--data", str(data)], stdout=out, stderr=subprocess.STDOUT)
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end and process.poll() is None:
        words = log.read_text("utf-8", "replace").partition("The page is at ")[2].split()
        if words:
            try:
                if httpx.get(f"{words[0]}/_stcore/health", timeout=5).status_code == 200:
                    return process, words[0]
            except httpx.HTTPError:
                pass
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"the page did not start: {log.read_text('utf-8', 'replace')[-2000:]}")


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Scripted]:
    server = Scripted(pause=0.03).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="session")
def served(endpoint: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("page")
    process, url = start_page(endpoint.url, root / "data", root / "log.txt")
    yield Served(url, root / "data", endpoint)
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium: Debian's, or the one that CHROMIUM names."""
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium here; install it (apt-get install chromium) or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium, served: Served, request: pytest.FixtureRequest):
    """A fresh tab at the first screen. At the end nothing may have been asked of any other machine."""
    for page in open_tab(chromium, served.url):
        yield page
        if (report := request.node.stash.get(CALL, None)) is not None and report.failed:
            report.sections.append(("what the page showed", page.locator("body").aria_snapshot()))
            if folder := os.environ.get("SCREENSHOTS"):
                page.screenshot(path=Path(folder) / f"{request.node.name}.png")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Keep how a test's call ended, so that its page can say what it showed."""
    report = yield
    if call.when == "call":
        item.stash[CALL] = report
    return report


def open_tab(chromium, url: str, first: bool = True, **options):
    """A tab, once its first screen is there (if `first`), and a look at what it asked for and complained about."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    if first:
        page.locator(".st-key-sample-0 button:enabled").first.wait_for()
    yield page
    context.close()
    elsewhere = [url for url in asked if not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))]
    assert not elsewhere
    assert not errors


def sample(tab, words: str) -> None:
    """Ask with one click on the first screen; conversations in the sidebar may have the same name."""
    tab.get_by_test_id("stMainBlockContainer").get_by_role("button", name=words).click()
