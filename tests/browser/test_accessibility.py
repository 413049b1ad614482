"""The page for those who read it with a screen reader, by keyboard, or with weak eyes: judged by axe-core."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import Served, open_tab, sample
from tests.browser.test_page import settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


def findings(tab) -> list[str]:
    """What axe-core calls serious or critical, contrast below 4.5 : 1 (3 : 1 for large letters) among it."""
    tab.mouse.move(2, 2)
    tab.wait_for_timeout(600)  # until nothing fades any more
    told = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['html'][:160]} {node['failureSummary'][:300]}"
        for one in told
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found_in_any_view(chromium, served: Served, scheme: str) -> None:
    for tab in open_tab(chromium, served.url, color_scheme=scheme):
        found = {"first visit": findings(tab)}
        for name in ("Answers", "Looking again", "Privacy", "Connection"):
            tab.get_by_text(name, exact=True).click()
        tab.get_by_text("Another endpoint").wait_for()
        found["settings"] = findings(tab)
        tab.reload()  # closes them
        tab.get_by_role("button", name="Describe it and point").first.wait_for()
        sample(tab, "Describe it and point")
        settle(tab)
        tab.locator(".stage .box").first.wait_for()
        found["conversation"] = findings(tab)
        tab.get_by_role("button", name="Correct this answer").click()
        tab.locator(".st-key-correction .stage .box").first.wait_for()
        found["correction"] = findings(tab)
        tab.get_by_role("button", name="Save the correction").click()
        tab.locator(".st-key-correction").wait_for(state="detached")
        tab.get_by_role("button", name="Corrections and refining").click()
        tab.get_by_role("tab", name="Learning").wait_for()
        found["corrections"] = findings(tab)
        tab.get_by_role("tab", name="Learning").click()
        found["learning"] = findings(tab)
        assert not any(found.values()), "\n".join(f"{view}: {one}" for view, some in found.items() for one in some)
