"""Before and after: what may be painted over, what is asked, what the answers mean."""

import json
from pathlib import Path

import pytest

from fourfold.assistant.images import Attachment
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.tasks.beaf import read_removals, removal_figures, run_beaf
from fourfold.eval.tasks.benchmark_run import RunOptions
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint
from tests.eval.test_controls import noise


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three images with a cup to remove and a dog that stays apart."""
    rows = []
    for number in range(3):
        noise(100, 100).save(tmp_path / f"{number}.png")
        boxes = [{"box": [10, 10, 40, 40], "label": "cup"}, {"box": [60.5, 60, 99, 99], "label": "table dog"}]
        if number == 2:
            boxes[1] = {"box": [0, 0, 100, 100], "label": "floor"}  # too large to go, and touched by the cup
        rows.append({"image": f"{number}.png", "width": 100, "height": 100, "boxes": boxes})
    path = tmp_path / "boxes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_what_may_be_removed_and_kept(scenes: Path) -> None:
    removals = {removal.image: removal for removal in read_removals(scenes, seed=0)}
    assert removals["2.png"].removed == "cup" and removals["2.png"].kept is None
    assert {removals["0.png"].removed, removals["0.png"].kept} == {"cup", "table dog"}
    ((x1, y1, x2, y2),) = removals["2.png"].edit.boxes
    assert x1 < 10 and y1 < 10 and x2 > 40 and y2 > 40
    (scenes.parent / "other.json").write_text('[{"question_id": 1}]')
    with pytest.raises(UserError, match="no annotation file of BEAF"):
        read_removals(scenes.parent / "other.json", seed=0)


def test_four_ways_to_answer(scenes: Path) -> None:
    removals = sorted(read_removals(scenes, seed=0), key=lambda removal: removal.image)
    answers = {
        "0.png/removed/before": "yes",
        "0.png/removed/after": "No.",
        "0.png/kept/before": "yes",
        "0.png/kept/after": "no",
        "1.png/removed/before": "yes",
        "1.png/removed/after": "yes",
        "1.png/kept/before": "yes",
        "1.png/kept/after": "yes",
        "2.png/removed/before": "no",
        "2.png/removed/after": None,
    }
    figures = {name: round(figure.value, 1) for name, figure in removal_figures(removals, answers).items()}
    assert figures == {
        "true understanding": 33.3,
        "ignorance": 0,
        "stubbornness": 33.3,
        "stubbornness/yes": 33.3,
        "stubbornness/no": 0,
        "unreadable": 33.3,
        "indecision": 50,
    }


def test_beaf_shows_the_edited_image_after(scenes: Path) -> None:
    def reply(messages: list[dict]) -> str:
        picture, question = messages[0]["content"]
        # Images go unchanged before; the edited ones differ in their bytes.
        return "yes" if picture["image_url"]["url"] in originals or "cup" not in question["text"] else "no"

    originals = {Attachment.from_path(scenes.parent / f"{number}.png").data_uri for number in range(3)}
    with endpoint(Script(reply=reply)) as script:
        options = RunOptions("pope", scenes.parent, scenes, scenes.parent / "out", EndpointModel([script.url]))
        result = run_beaf(options)
    assert result is not None and result["failed"] == 0
    removed = {removal.image: removal.removed for removal in read_removals(scenes, seed=0)}
    cups = 100 * sum(label == "cup" for label in removed.values()) / 3
    assert result["figures"]["true understanding"]["value"] == pytest.approx(cups)
