import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.tasks.benchmark_run import RunOptions
from fourfold.eval.tasks.conversation import run_conversation
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint

RIGHT, WRONG = "{<10><10><40><30>}", "{<80><80><90><90>}"


def talk(folder: Path, benchmark: str, script: Script, **changes: Any) -> dict[str, float]:
    result = run_conversation(
        RunOptions(
            benchmark, folder, folder / "annotations.json", folder / "out", EndpointModel([script.url]), **changes
        )
    )
    assert result is not None and result["failed"] == 0
    return {name: round(figure["value"], 1) for name, figure in result["figures"].items()}


def text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@pytest.fixture
def referents(tmp_path: Path) -> Path:
    """Two referents with three expressions, one with two, which takes no part."""
    rows = []
    for referent, words in (("a", 3), ("b", 4), ("c", 2)):
        name = f"COCO_train2014_{ord(referent):012d}"
        Image.new("RGB", (100, 200)).save(tmp_path / f"{name}.jpg")
        for number in range(words):
            row = {"img_id": f"{name}_1", "sents": f"{referent}{number}", "bbox": [10, 20, 30, 40]}
            rows.append({**row, "width": 100, "height": 200})
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    return tmp_path


def test_pointing_again_after_each_expression(referents: Path) -> None:
    def reply(messages: list[dict[str, Any]]) -> str:
        # Right from the second turn on for a; right at first for b, then lost.
        last, users = text(messages[-1]), sum(message["role"] == "user" for message in messages)
        assert isinstance(messages[0]["content"], list) and all(isinstance(m["content"], str) for m in messages[1:])
        return RIGHT if (" a" in last and users > 1) or (" b" in last and users == 1) else WRONG

    with endpoint(Script(reply=reply)) as script:
        figures = talk(referents, "refcoco", script)
        # Three turns and two expressions alone, for each of two referents.
        assert script.requests == 10
        talk(referents, "refcoco", script)
        assert script.requests == 10
    assert figures["acc@0.5 at turn 1"] == figures["acc@0.5 at turn 3"] == 50
    assert figures["gain, last turn − first"] == 0
    assert figures["acc@0.5 of expression 3 alone"] == 50
    assert figures["regressions, turn 1 → 2 (of those right)"] == 100
    assert figures["recoveries, turn 1 → 2 (of those wrong)"] == 100
    assert figures["regressions, turn 2 → 3 (of those right)"] == 0


def test_doubt_hint_telling_and_a_sibling(tmp_path: Path) -> None:
    rows = []
    for image in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{image}.png")
        for number, answer in enumerate(("red", "blue car")):
            row = {"question_id": f"{image}{number}", "image_id": image, "question": f"what is {image}{number}?"}
            rows.append({**row, "answers": [answer] * 10})
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": rows}))

    def reply(messages: list[dict[str, Any]]) -> str:
        last, first = text(messages[-1]), text(messages[0])
        if "The right answer is: " in last:
            return last.partition("The right answer is: ")[2].split(".")[0]
        if "A hint" in last:
            return "red" if '"r"' in last else "no idea"
        if "that is not right" in last:
            return "red" if "b0" in first else "dunno"  # gives up what was right, but mends b0
        if len(messages) > 1:
            return "red" if last.endswith("0?") else "blue car"  # the conversation taught it
        return "red" if "a0" in last else "hm"

    with endpoint(Script(reply=reply)) as script:
        figures = talk(tmp_path, "okvqa", script)
    assert figures["accuracy at first"] == 25
    assert figures["accuracy after doubt"] == 25 and figures["gain by doubt"] == 0
    assert figures["right answers given up under doubt (of those right)"] == 100
    assert figures["mended under doubt (of those wrong)"] == pytest.approx(33.3)
    assert figures["right after a hint (of those hinted)"] == pytest.approx(33.3)
    assert figures["right after being told (of those told)"] == 100
    assert figures["sibling question alone"] == 25
    assert figures["sibling question after the conversation"] == 100
    assert figures["sibling question, after − alone"] == 75


def test_no_referent_with_three_expressions(referents: Path) -> None:
    rows = [row for row in json.loads((referents / "annotations.json").read_text()) if row["sents"][0] == "c"]
    (referents / "annotations.json").write_text(json.dumps(rows))
    with endpoint(Script()) as script, pytest.raises(UserError, match="no referent of refcoco has 3 expressions"):
        talk(referents, "refcoco", script)
