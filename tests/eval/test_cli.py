"""The verbs as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fourfold.eval import app
from prompts.errors import UserError

POPE = [{"question_id": i, "image": f"{i}.jpg", "text": "Is there a cat?", "label": "yes"} for i in range(4)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "labels.json").write_text("\n".join(map(json.dumps, POPE)))
    (tmp_path / "answers.json").write_text(json.dumps({"0": "yes", "1": "Yes.", "2": "no", "3": "yes"}))
    return tmp_path


def invoke(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_score_shows_every_rule_and_json_is_one_object(files: Path) -> None:
    words = ("score", "pope", "--predictions", files / "answers.json", "--annotations", files / "labels.json")
    table = invoke(*words)
    assert "accuracy 75.000" in table and "strict" in table and "minigpt4" in table
    shown = json.loads(invoke(*words, "--json"))
    assert (shown["value"], shown["rule"], shown["n"], set(shown["rules"])) == (
        75,
        "pope",
        4,
        {"pope", "strict", "minigpt4"},
    )
    assert json.loads(invoke(*words, "--json", "--rule", "minigpt4"))["value"] == 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("score", "pope", "--predictions", "none.json", "--annotations", "labels.json"), "no predictions file"),
        (("run", "pope", "--images", ".", "--control", "deaf"), "--control is one of none, blind"),
        (("run", "pope"), "--images DIR"),
        (("run", "card", "--endpoint", "http://127.0.0.1:9"), "the card runs in process"),
        (("run", "card", "--source", "films"), "knows no 'films'; it has: photos, scenes"),
        (("converse", "refcoco", "--images", "."), "--annotations FILE"),
        (("report", "nowhere"), "holds no finished run"),
    ],
)
def test_what_the_asker_can_mend(
    files: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(UserError, match=message):
        invoke(*words)
