"""The measurement of the loops, on rendered scenes and with models whose score is known beforehand."""

import json
from dataclasses import replace

import pytest

from benchmarks import loop as loop_module
from benchmarks.loop import LOOPS, items_of, key, measure, summary
from benchmarks.loop_table import table
from fourfold.assistant.chat.look_again import Budget
from fourfold.assistant.training.data import held_out
from fourfold.eval.log import AnswerLog
from fourfold.prompts.tasks import Task


def loop(name):
    return next(entry for entry in LOOPS if entry.name == name)


@pytest.fixture
def run(tmp_path):
    """Measure one loop with a scripted model."""

    def measured(entry, samples, ask, workers):
        with AnswerLog(tmp_path / "answers.jsonl", {}) as log:
            measure(entry, samples, ask, Budget(), workers, log)
            return summary(entry, samples, log.done)

    return measured


SETUP = {"model": "m", "fingerprint": "f", "date": "2026-01-01T00:00:00", "seed": 0, "workers": 2}


def test_a_model_that_says_yes_to_everything_scores_half_and_nothing_changes(run):
    entry = loop("check: is it there? (scenes)")
    samples = items_of(entry, 0, 12)
    assert [s.turns[0].answer for s in samples].count("yes") == 6
    result = run(entry, samples, lambda messages, images: "yes", 2)
    assert (result["before"]["value"], result["after"]["value"], result["items"]) == (50, 50, 12)
    assert (result["mended"], result["broken"], result["p_value"]) == (0, 0, 1)
    json.dumps(result)
    assert "| 12 | 50.0 | 50.0 |" in table({**SETUP, "results": [result]})


def test_a_model_that_contradicts_its_wrong_answers_is_mended(run):
    """It says yes to every question about the whole image, but finds only what is there."""
    entry = loop("check: is it there? (scenes)")
    samples = items_of(entry, 0, 12)
    truth = {sample.turns[0].facts["object"]: sample.turns[0].answer == "yes" for sample in samples}
    assert len(truth) == 12

    def ask(messages, images):
        text = messages[0]["content"][1]["text"]
        if text.startswith("[vqa]"):
            return "yes"
        if text.startswith("[identify]"):
            return ""
        thing = text.removeprefix("[detection] ")
        return f"<p>{thing}</p> {{<10><10><90><90>}}" if truth.get(thing) else "none"

    result = run(entry, samples, ask, 1)
    assert (result["before"]["value"], result["after"]["value"]) == (50, 100)
    assert (result["mended"], result["broken"], result["right_that_broke_percent"]) == (6, 0, 0)
    assert result["p_value"] < 0.05
    assert result["verdicts"] == {
        "supported": {"n": 6, "right_percent": 100},
        "unsupported": {"n": 6, "right_percent": 0},
    }


@pytest.mark.parametrize("name", [entry.name for entry in LOOPS if "scenes" in entry.name])
def test_every_loop_on_scenes_runs_on_nonsense(name, run):
    pytest.importorskip("rapidocr", reason='the extra "ocr" is not installed')
    entry = loop(name)
    samples = items_of(entry, 1, 2)
    assert len(samples) == 2
    result = run(entry, samples, lambda messages, images: "fish", 2)
    assert result["before"]["value"] == result["after"]["value"] == 0
    assert result["right_that_broke_percent"] is None


def test_captions_tell_their_claims_of_both_sorts(run):
    entry = loop("check: claims of captions (photos)")
    scene = held_out_caption("A dog and a man.")
    right = {"[vqa] is there a dog in the image?": "yes", "[detection] dog": "<p>dog</p> {<1><1><50><50>}"}

    def ask(messages, images):
        text = messages[0]["content"][1]["text"]
        if text.startswith("[caption]"):
            return "A dog and a cat."
        return "dog" if text.startswith("[identify]") else right.get(text, "no")

    result = run(entry, [scene], ask, 1)
    assert result["claims"] == {"before": {"right": 1, "wrong": 1}, "after": {"right": 1, "wrong": 0}}
    assert (result["before"]["value"], result["after"]["value"]) == (50, 100)
    assert "1.00 right and 1.00 wrong before, 1.00 right and 0.00 wrong after" in table({**SETUP, "results": [result]})


def held_out_caption(reference):
    [sample] = held_out(Task.CAPTION, "scenes", limit=1)
    turn = replace(
        sample.turns[0], question="[caption] describe this image briefly", facts={"references": (reference,)}
    )
    return replace(sample, turns=(turn,))


def test_what_was_measured_is_not_measured_again(tmp_path):
    entry = loop("look closer: is it there? (scenes)")
    samples, asked = items_of(entry, 0, 6), []

    def ask(messages, images):
        asked.append(messages)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return "yes"

    with AnswerLog(tmp_path / "answers.jsonl", {}) as log, pytest.raises(KeyboardInterrupt):
        measure(entry, samples, ask, Budget(), 1, log)
    with AnswerLog(tmp_path / "answers.jsonl", {}) as log:
        known = len(log.done)
        assert 0 < known < 6
        measure(entry, samples, ask, Budget(), 1, log)
        assert set(log.done) == {key(entry, sample) for sample in samples}
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 6  # each item once


def test_one_command_writes_all_and_resumes_without_the_model(tmp_path, tiny_checkpoint, monkeypatch):
    chosen = ["--model", str(tiny_checkpoint), "--limit", "2", "--only", "is it there? (scenes)"]
    monkeypatch.setattr("sys.argv", ["loop", *chosen, "--out", str(tmp_path)])
    loop_module.main()
    first = json.loads((tmp_path / "loop.json").read_text())
    assert [result["loop"] for result in first["results"]] == [
        "check: is it there? (scenes)",
        "look closer: is it there? (scenes)",
    ]
    assert (tmp_path / "loop.md").read_text().count("\n| ") == 3
    monkeypatch.setattr(
        "fourfold.serving.engine.engine.Engine.load", lambda *a, **k: pytest.fail("the model is not needed again")
    )
    loop_module.main()
    assert json.loads((tmp_path / "loop.json").read_text())["results"] == first["results"]
