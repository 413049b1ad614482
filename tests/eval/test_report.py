import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourfold.eval.controls import Control
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.report.runs import build_report, write_report
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint

HOSTILE = "<script>alert(1)</script>{<10><10><40><30>}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """RefCOCO on three images: seeing gets all right, blind none."""
    folder = tmp_path_factory.mktemp("runs")
    rows = []
    for number in range(6):
        name = f"COCO_train2014_{number % 3:012d}"
        Image.new("RGB", (100, 200), "navy").save(folder / f"{name}.jpg")
        rows.append(
            {"img_id": f"{name}_{number}", "sents": "dog & <b>", "bbox": [10, 20, 30, 40], "width": 100, "height": 200}
        )
    (folder / "refcoco.json").write_text(json.dumps(rows))
    outs = []
    for control, answer in ((Control.NONE, "{<10><10><40><30>}"), (Control.BLIND, HOSTILE.split("{")[0])):
        with endpoint(Script(answer=answer)) as script:
            who = EndpointModel([script.url])
            options = RunOptions("refcoco", folder, folder / "refcoco.json", folder / control, who, control=control)
            run_benchmark(options)
        outs.append(folder / control)
    return outs


class _Outside(HTMLParser):
    """Collects whatever a page would fetch, and the scripts in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]


def test_page_is_whole_in_itself_and_escapes_answers(runs: list[Path], tmp_path: Path) -> None:
    paths = write_report(build_report(runs), tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    page = (tmp_path / "report.html").read_text()
    parser = _Outside()
    parser.feed(page)
    assert "script" not in parser.tags and "link" not in parser.tags
    images = [address for address in parser.fetched if not address.startswith("#")]
    assert all(address.startswith("data:image/jpeg;base64,") for address in images)
    assert len(images) == 6  # six images seen; blind samples show none
    assert page.count('class="truth"') == 6 and page.count('class="predicted"') == 6
    assert "dog &amp; &lt;b&gt;" in page and "&lt;script&gt;" in page
    assert re.search(r"left:10\.0%;top:10\.0%;width:30\.0%;height:20\.0%", page)
    assert page.count(">88.69<") == 1 and "reported, first paper version" in page  # once, not with each run
    assert "only the" not in page  # all failures or none: nothing to choose


def test_blind_difference_and_paired_comparison(runs: list[Path]) -> None:
    report = build_report(runs)
    seeing, blind = report["headline"]
    assert (seeing["value"], blind["value"]) == (100, 0)
    assert seeing["minus"]["blind"]["difference"]["value"] == 100 and "minus" not in blind
    (comparison,) = report["comparisons"]
    assert (comparison["worse"], comparison["common"], comparison["left_out"]) == (6, 6, 0)
    # Three images: the smallest two-sided p that flips of three signs can give is 1/4.
    assert 0.2 < comparison["p_value"] < 0.3


def test_failures_come_first(runs: list[Path]) -> None:
    path = runs[0] / "samples.json"
    kept = path.read_text()
    samples: list[dict[str, Any]] = json.loads(kept)
    samples[3]["score"] = 0.0
    path.write_text(json.dumps(samples))
    try:
        assert build_report(runs[:1])["runs"][0]["samples"][0]["id"] == "3"
    finally:
        path.write_text(kept)


def test_markdown_has_every_rule(runs: list[Path], tmp_path: Path) -> None:
    write_report(build_report(runs), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| figure | official | minigpt4 |" in text
    assert "+100.0" in text


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no finished run \(result\.json is missing\)"):
        build_report([tmp_path])
