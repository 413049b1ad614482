"""The measurement of the loops, on rendered scenes and with models whose score is known beforehand."""

import json

import pytest

from assistant.look_again import Budget
from benchmarks.loop import LOOPS, items_of, run, table


def loop(name):
    return next(entry for entry in LOOPS if entry.name == name)


def test_a_model_that_says_yes_to_everything_scores_half_and_nothing_changes():
    entry = loop("check: is it there? (scenes)")
    samples = items_of(entry, 0, 12)
    assert [s.turns[0].answer for s in samples].count("yes") == 6
    result = run(entry, samples, lambda messages, images: "yes", Budget(), 2)
    assert (result["before"]["value"], result["after"]["value"], result["items"]) == (50, 50, 12)
    assert (result["mended"], result["broken"], result["p_value"]) == (0, 0, 1)
    json.dumps(result)
    assert "| 12 | 50.0 | 50.0 |" in table([result])


def test_a_model_that_contradicts_its_wrong_answers_is_mended():
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

    result = run(entry, samples, ask, Budget(), 1)
    assert (result["before"]["value"], result["after"]["value"]) == (50, 100)
    assert (result["mended"], result["broken"], result["right_that_broke_percent"]) == (6, 0, 0)
    assert result["p_value"] < 0.05
    assert result["verdicts"] == {
        "supported": {"n": 6, "right_percent": 100},
        "unsupported": {"n": 6, "right_percent": 0},
    }


@pytest.mark.parametrize("name", [entry.name for entry in LOOPS if "scenes" in entry.name])
def test_every_loop_on_scenes_runs_on_nonsense(name):
    pytest.importorskip("rapidocr", reason='the extra "ocr" is not installed')
    entry = loop(name)
    samples = items_of(entry, 1, 4)
    assert len(samples) == 4
    result = run(entry, samples, lambda messages, images: "fish", Budget(), 2)
    assert result["before"]["value"] == result["after"]["value"] == 0
    assert result["right_that_broke_percent"] is None
