"""All experiments with a tiny model that knows nothing: mistakes are easy to find."""

import json
from dataclasses import replace

import pytest

from fourfold.assistant.refine.training.recipe import read_refinement
from fourfold.eval.experiments.arms import ARMS
from fourfold.eval.experiments.run import Options, run_refinement
from fourfold.eval.experiments.table import table_markdown
from fourfold.prompts.errors import UserError
from tests.assistant.refine.training.test_learn import TINY


@pytest.fixture(scope="module")
def options(tiny_checkpoint, tmp_path_factory):
    return Options(
        model=tiny_checkpoint, out=tmp_path_factory.mktemp("benchmark"), subjects=("corner",),
        arms=("memory", "sft + dpo", "projector"), counts=(2, 4), count=4, limit=4, sources=("scenes",), recipe=TINY,
        max_steps=2, device="cpu",
    )  # fmt: skip


def test_rows_table_curve_and_going_on(options):
    rows = run_refinement(options)
    order = [("memory", 2), ("sft + dpo", 2), ("memory", 4), ("sft + dpo", 4), ("projector", 4)]
    assert [(row["arm"], row["count"]) for row in rows] == order
    for row in rows:
        assert row["slices"]["corrected"]["after"]["n"] == row["count"]
        assert row["slices"]["corrected"]["before"]["value"] == 0
        assert row["slices"]["held out"]["after"]["n"] == 4
        assert {"alike", "related refer", "related identify", "scenes/count"} <= set(row["slices"])
        assert row["untouched"]["after"]["n"] > 8
    taught = [row for row in rows if row["arm"] != "memory"]
    assert all(row["steps"] == 2 and row["cpu_minutes"] > 0 for row in taught)
    assert taught[0]["adapter_bytes"] > 1000 and taught[2]["adapter_bytes"] is None
    assert taught[2]["losses"] != taught[1]["losses"]
    # Nobody asks an untouched question again that was corrected, so a memory changes nothing there.
    assert all(rows[0]["untouched"]["change"]["difference"][side] == 0 for side in ("low", "value", "high"))
    table = (options.out / "table.md").read_text()
    assert table.count("\n| ") == 7 and "related refer" in table
    assert (options.out / "curve.png").stat().st_size > 5000

    # Nothing is measured twice, not even the arms that were left out the first time; a cut-off line is measured again.
    lines = (options.out / "rows.jsonl").read_bytes().splitlines(keepends=True)
    answers = (options.out / "corner" / "answers.jsonl").read_bytes()
    (options.out / "rows.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:40])
    again = run_refinement(options)
    assert [row["slices"] for row in again] == [row["slices"] for row in rows]
    assert (options.out / "corner" / "answers.jsonl").read_bytes() == answers
    more = run_refinement(replace(options, arms=("sft + dpo", "no replay"), counts=(2,)))
    assert [(row["arm"], row["count"]) for row in more][5:] == [("no replay", 4)]


def test_too_few_mistakes_are_said(options, monkeypatch):
    monkeypatch.setattr("fourfold.eval.experiments.experiment.Experiment.measure", lambda self, arm, count: None)
    notes = []
    again = replace(options, arms=("sft",), counts=(3,))
    assert "corner/sft/3" not in {
        f"{r['subject']}/{r['arm']}/{r['count']}" for r in run_refinement(again, notes.append)
    }
    assert notes == ["corner/sft/3: left out, the simulated user found too few mistakes"]


def test_every_arm_differs_from_the_default():
    default = read_refinement()
    assert ARMS["sft"].settings(default) == replace(default, held_out=0.0)
    changed = [arm for arm in ARMS.values() if arm.trained and arm.form == "text" and not arm.remembered]
    settings = [json.dumps(arm.settings(default), default=str) for arm in changed]
    assert len(set(settings)) == len(changed)


def test_unknown_names_are_refused(options):
    with pytest.raises(UserError, match="no subject 'cats'"):
        replace(options, subjects=("cats",))
    with pytest.raises(UserError, match="no arm 'magic'"):
        replace(options, arms=("magic",))


def test_an_empty_table_is_not_needed():
    assert table_markdown([]).count("\n") == 1
