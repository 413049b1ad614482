"""The verbs as a user types them."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fourfold.cli.eval import app
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint

POPE = [{"question_id": i, "image": f"{i}.jpg", "text": "Is there a cat?", "label": "yes"} for i in range(4)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "labels.json").write_text("\n".join(map(json.dumps, POPE)))
    (tmp_path / "answers.json").write_text(json.dumps({"0": "yes", "1": "Yes.", "2": "no", "3": "yes"}))
    (tmp_path / "cut.json").write_text("\n".join(map(json.dumps, POPE))[:120])
    (tmp_path / "mixed.json").write_text('[{"id": "0", "answer": "yes"}, {"id": 1.5, "answer": "no"}]')
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
        (("run", "pope", "--recipe", "minigpt-v2", "--prompt", "plain"), "--prompt plain is not the recipe minigpt-v2"),
        (("run", "pope", "--recipe", "minigpt-v2", "--max-tokens", "9"), "--max-tokens 9 is not the recipe minigpt-v2"),
        (("beaf", "--boxes", "x.jsonl", "--images", ".", "--recipe", "llava"), "no recipe is called 'llava'"),
        (("converse", "gqa", "--annotations", "x", "--prompt", "fancy"), "no wording is called 'fancy'"),
        (("run", "pope", "--images", ".", "--source", "photos"), "--source belongs to card"),
        (("run", "card", "--prompt", "plain"), "the card asks in its own words"),
        (("score", "gqa", "--predictions", "answers.json", "--annotations", "labels.json"), "no GQA questions file"),
        (("score", "pope", "--predictions", "answers.json", "--annotations", "cut.json"), "breaks off .* at line 2"),
        (("score", "pope", "--predictions", "mixed.json", "--annotations", "labels.json"), "an id must be a whole"),
        (("score", "refcoco", "--predictions", "answers.json", "--annotations", "labels.json"), "of refcoco: expected"),
        (("run", "card", "--endpoint", "http://127.0.0.1:9"), "lists no models"),
        (("run", "card", "--source", "films"), "knows no 'films'; it has: photos, scenes"),
        (("run", "card", "--annotations", "labels.json"), "questions of its own: leave --annotations out"),
        (("run", "look-again", "--probe", "distractor"), "leave --probe out"),
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


def test_options_of_asking_reach_the_endpoint_and_json_is_one_object(files: Path) -> None:
    for number in range(4):
        Image.new("RGB", (8, 8)).save(files / f"{number}.jpg")
    with endpoint(Script()) as script:
        shared = ("--images", files, "--endpoint", script.url, "--seed", "3")
        run = ("run", "pope", "--annotations", files / "labels.json", "--recipe", "minigpt-v2", *shared)
        shown = json.loads(invoke(*run, "--out", files / "run", "--limit", "2", "--json"))
        assert (shown["n"], shown["value"]) == (2, 100)
        assert (script.bodies[0]["seed"], script.bodies[0]["max_tokens"]) == (3, 20)
        from inspect_ai.log import read_eval_log

        log = read_eval_log(str(files / "run" / "inspect.eval"))
        assert log.results is not None and log.results.scores[0].metrics["accuracy"].value == 1
        assert log.samples is not None and [one.output.completion for one in log.samples] == ["yes", "yes"]
        again = json.loads(invoke("audit", files / "run" / "inspect.eval", "--data", files / "labels.json", "--json"))
        assert (again["harness"], again["benchmark"], again["missing"]) == ("Inspect", "pope", 2)
        assert json.loads(invoke("audit", files / "run", "--json"))["rules"]["pope"]["value"] == 50  # two of four asked
        plain = ("run", "pope", "--annotations", files / "labels.json", "--prompt", "plain", *shared)
        assert "accuracy 100.000" in invoke(*plain, "--out", files / "plain")
        assert script.bodies[-1]["messages"][0]["content"][1]["text"].startswith("Is there a cat?\nAnswer")
        talk = ("converse", "pope", "--annotations", files / "labels.json", *shared)
        told = json.loads(invoke(*talk, "--out", files / "talk", "--json"))
        assert told["figures"]["accuracy at first"]["value"] == 100


def test_without_images_in_the_files_none_are_counted(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps({"1": ["red"] * 10, "2": ["two"] * 10}))
    (tmp_path / "said.json").write_text(json.dumps({"1": "red", "2": "three"}))
    words = ("score", "okvqa", "--predictions", tmp_path / "said.json", "--annotations", tmp_path / "truth.json")
    assert "2 questions (the files name no images)" in " ".join(invoke(*words).split())
