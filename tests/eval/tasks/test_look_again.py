"""The measurement of the loops, on rendered scenes and with models whose score is known beforehand."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fourfold.assistant.training.data import held_out
from fourfold.cli.eval import app
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.log import EvalLog
from fourfold.eval.run import run
from fourfold.eval.task import Sample, Task
from fourfold.eval.tasks.look_again import LOOPS, LookAgain, look_again_markdown, run_look_again, summary
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task as Tag
from tests.eval.scripted import Script, endpoint


def loop(name):
    return next(entry for entry in LOOPS if entry.name == name)


@pytest.fixture
def measured(tmp_path):
    """Measure one loop with a scripted model."""

    def measure(entry, task, ask, workers):
        with EvalLog(tmp_path / "answers.jsonl", {}) as log:
            return summary(entry, task, run(task, LookAgain("scripted", ask, entry.options, workers), log))

    return measure


SETUP = {"model": "m", "date": "2026-01-01T00:00:00", "seed": 0, "workers": 2}


def test_a_model_that_says_yes_to_everything_scores_half_and_nothing_changes(measured):
    entry = loop("check: is it there? (scenes)")
    task = entry.task(12, 0)
    assert [sample.reference.answer for sample in task.samples].count("yes") == 6
    result = measured(entry, task, lambda messages, images: "yes", 2)
    assert (result["before"]["value"], result["after"]["value"], result["items"]) == (50, 50, 12)
    assert (result["mended"], result["broken"], result["p_value"]) == (0, 0, 1)
    json.dumps(result)
    assert "| 12 | 50.0 | 50.0 |" in look_again_markdown({**SETUP, "results": [result]})


def test_a_model_that_contradicts_its_wrong_answers_is_mended(measured):
    """It says yes to every question about the whole image, but finds only what is there."""
    entry = loop("check: is it there? (scenes)")
    task = entry.task(12, 0)
    truth = {one.reference.facts["object"]: one.reference.answer == "yes" for one in task.samples}
    assert len(truth) == 12

    def ask(messages, images):
        text = messages[0]["content"][1]["text"]
        if text.startswith("[vqa]"):
            return "yes"
        if text.startswith("[identify]"):
            return ""
        thing = text.removeprefix("[detection] ")
        return f"<p>{thing}</p> {{<10><10><90><90>}}" if truth.get(thing) else "none"

    result = measured(entry, task, ask, 1)
    assert (result["before"]["value"], result["after"]["value"]) == (50, 100)
    assert (result["mended"], result["broken"], result["right_that_broke_percent"]) == (6, 0, 0)
    assert result["p_value"] < 0.05
    assert result["verdicts"] == {
        "supported": {"n": 6, "right_percent": 100},
        "unsupported": {"n": 6, "right_percent": 0},
    }


@pytest.mark.parametrize("name", [entry.name for entry in LOOPS if "scenes" in entry.name])
def test_every_loop_on_scenes_runs_on_nonsense(name, measured):
    pytest.importorskip("rapidocr", reason='the extra "ocr" is not installed')
    entry = loop(name)
    task = entry.task(2, 1)
    assert len(task.samples) == 2
    result = measured(entry, task, lambda messages, images: "fish", 2)
    assert result["before"]["value"] == result["after"]["value"] == 0
    assert result["right_that_broke_percent"] is None


def test_captions_tell_their_claims_of_both_sorts(measured):
    entry = loop("check: claims of captions (photos)")
    scene = held_out_caption("A dog and a man.")
    right = {"[vqa] is there a dog in the image?": "yes", "[detection] dog": "<p>dog</p> {<1><1><50><50>}"}

    def ask(messages, images):
        text = messages[0]["content"][1]["text"]
        if text.startswith("[caption]"):
            return "A dog and a cat."
        return "dog" if text.startswith("[identify]") else right.get(text, "no")

    result = measured(entry, scene, ask, 1)
    assert result["claims"] == {"before": {"right": 1, "wrong": 1}, "after": {"right": 1, "wrong": 0}}
    assert (result["before"]["value"], result["after"]["value"]) == (50, 100)
    assert "1.00 right and 1.00 wrong before, 1.00 right and 0.00 wrong after" in look_again_markdown(
        {**SETUP, "results": [result]}
    )


def held_out_caption(reference):
    [held] = held_out(Tag.CAPTION, "scenes", limit=1)
    question, facts = "[caption] describe this image briefly", {"references": (reference,)}
    turn = replace(held.turns[0], question=question, facts=facts)
    return Task("captions", [Sample("1", question, held.image, turn, cluster=held.image.id)])


def test_what_was_measured_is_not_measured_again(tmp_path):
    entry = loop("look closer: is it there? (scenes)")
    task, asked = entry.task(6, 0), []

    def ask(messages, images):
        asked.append(messages)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return "yes"

    model = LookAgain("scripted", ask, entry.options, 1)
    with EvalLog(tmp_path / "answers.jsonl", {}) as log, pytest.raises(KeyboardInterrupt):
        run(task, model, log)
    with EvalLog(tmp_path / "answers.jsonl", {}) as log:
        assert 0 < len(log.done) < 6
        run(task, model, log)
        assert set(log.done) == {sample.id for sample in task.samples}
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 6  # each question once


def test_one_command_writes_all_and_resumes_without_the_model(tmp_path, tiny_checkpoint, monkeypatch):
    words = ["run", "look-again", "--model", str(tiny_checkpoint), "--limit", "2", "--out", str(tmp_path), "--json"]
    words += ["--arm", "is it there? (scenes)"]
    first = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert [result["loop"] for result in first["results"]] == [
        "check: is it there? (scenes)",
        "look closer: is it there? (scenes)",
    ]
    assert (tmp_path / "loop.md").read_text().count("\n| ") == 3
    monkeypatch.setattr(
        "fourfold.serving.engine.engine.Engine.load", lambda *a, **k: pytest.fail("the model is not needed again")
    )
    CliRunner().invoke(app, words, catch_exceptions=False)
    assert json.loads((tmp_path / "loop.json").read_text())["results"] == first["results"]


def test_what_is_missing_is_said_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("fourfold.eval.tasks.look_again.find_spec", lambda name: None)
    words = ["run", "look-again", "--endpoint", "http://127.0.0.1:9", "--model", "m", "--source", "scenes"]
    with pytest.raises(UserError, match="needs the extra"):
        CliRunner().invoke(app, [*words, "--out", str(tmp_path)], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no loop is called photos"):
        CliRunner().invoke(app, [*words, "--arm", "photos", "--out", str(tmp_path)], catch_exceptions=False)


def test_an_endpoint_looks_again(tmp_path):
    with endpoint(Script(answer="yes")) as script:
        model = EndpointModel([script.url])
        found = run_look_again(model, limit=2, out=tmp_path, only=["check: is it there? (scenes)"])
        assert all(body["memory"] is False and body["temperature"] == 0 for body in script.bodies)
    (result,) = found["results"]
    assert (result["before"]["value"], result["items"]) == (50, 2) and result["calls"] >= 1
    with pytest.raises(UserError, match="no loop is called magic"):
        run_look_again(model, limit=2, out=tmp_path, only=["magic"])
