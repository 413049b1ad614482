"""Logs of three harnesses: the same answers get the same figures, and a gap is taken apart."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fourfold.cli.eval import app
from fourfold.eval.audit.compare import compare_runs
from fourfold.eval.audit.gap import explain_gap
from fourfold.eval.audit.logs import read_log
from fourfold.eval.audit.power import assumed_spread, difference_seen, images_needed, measured_spread
from fourfold.eval.audit.rescore import Rescored, rescore
from fourfold.eval.scorers.choice import READERS
from fourfold.eval.statistics import clustered_mean
from fourfold.prompts.errors import UserError
from tests.eval.audit.logs import LETTERS, TEXTS, inspect, lmms_eval, questions, vlmevalkit


def audited(path: Path, **changes: object) -> Rescored:
    return rescore(read_log(path), **changes)  # type: ignore[arg-type]


def test_every_harness_gives_the_same_figures(tmp_path: Path) -> None:
    rows = questions()
    logs = {
        "VLMEvalKit": [vlmevalkit(tmp_path / f"M_MMStar{suffix}", rows) for suffix in (".xlsx", ".tsv", ".json")],
        "lmms-eval": [
            lmms_eval(tmp_path / "d_samples_mmstar.jsonl", rows),
            lmms_eval(tmp_path / "e_samples_mmstar.jsonl", rows, doc=True),
        ],
        "Inspect": [inspect(tmp_path / "a.eval", rows), inspect(tmp_path / "a.json", rows)],
    }
    options = dict(zip(LETTERS, TEXTS, strict=True))
    for harness, paths in logs.items():
        for path in paths:
            found = audited(path)
            assert (found.log.harness, found.benchmark.name, found.missing) == (harness, "mmstar", ())
            for score in found.scores:
                right = [READERS[score.rule](row["prediction"], options) == row["answer"] for row in rows]
                kinds = [row["l2-category"] for row in rows]
                mean = np.mean(right)
                if score.rule == "lmms_eval" and found.samples[0].groups.get("l2-category"):
                    mean = np.mean(
                        [np.mean([r for r, k in zip(right, kinds, strict=True) if k == kind]) for kind in set(kinds)]
                    )
                assert score.headline.value == pytest.approx(100 * mean), (path, score.rule)
            if path.name != "d_samples_mmstar.jsonl":  # which does not say what the images are
                assert found.scores[0].headline.clusters == 20
    assert audited(logs["Inspect"][0]).own == pytest.approx(
        100 * sum(r["prediction"] == r["answer"] for r in rows) / 60
    )


def test_a_log_that_inspect_itself_wrote(tmp_path: Path) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import match

    said = ["Yes", "no", "No.", "Yes, it is"]
    data = MemoryDataset([Sample(input=f"Is it {n}?", target="Yes" if n % 2 else "No") for n in range(4)])
    outputs = [ModelOutput.from_content("mock", text) for text in said]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else it fetches a tokenizer
    model = get_model("mockllm/model", custom_outputs=outputs)
    log = eval(
        Task(dataset=data, scorer=match(), name="existence"), model=model, log_dir=str(tmp_path), display="none",
        max_connections=1,
    )[0]  # fmt: skip
    found = audited(Path(log.location))
    assert found.benchmark.name == "yes-no questions" and found.log.task == "existence"
    by_question = {item.row["question"]: item.answer for item in found.log.items}
    assert sorted(by_question.values()) == sorted(said)
    right = sum(text.lower().startswith("yes" if int(q[6]) % 2 else "no") for q, text in by_question.items())
    assert found.scores[0].headline.value == 25 * right


def test_the_models_own_answer_is_never_taken_for_the_right_one(tmp_path: Path) -> None:
    """lmms-eval keeps submissions beside the metrics, whose `answer` is the model's; pandas writes NaN for nothing."""
    record: dict[str, object] = {"doc_id": 0, "target": "['Smith']", "filtered_resps": "Jones", "input": "Who?"}
    record |= {name: {"questionId": 7, "answer": "Jones"} for name in ("submission", "anls")}
    log = tmp_path / "d_samples_docvqa_val.jsonl"
    log.write_text(json.dumps(record) + "\n")
    assert [score.headline.value for score in audited(log).scores] == [0, 0]
    log = tmp_path / "M_MMStar.json"
    row = {"index": 1, "question": "?", "A": "x", "B": "y", "C": float("nan"), "answer": "A"}
    log.write_text(json.dumps([{**row, "prediction": "A"}, {**row, "index": 2, "prediction": float("nan")}]))
    found = audited(log)
    assert found.missing == ("2",) and found.scores[0].headline.value == 50
    assert set(found.samples[0].reference.options) == {"A", "B"}
    one = tmp_path / "d_samples_textvqa_val.jsonl"
    one.write_text(json.dumps({"doc_id": 0, "target": "red", "filtered_resps": "red", "input": "?"}) + "\n")
    with pytest.raises(UserError, match="does not have the annotators' answers; give --data"):
        audited(one)


def test_data_shows_what_a_log_lacks(tmp_path: Path) -> None:
    rows = questions()
    table = tmp_path / "MMStar.tsv"
    vlmevalkit(table, [{name: value for name, value in row.items() if name != "prediction"} for row in rows])
    log = lmms_eval(tmp_path / "d_samples_mmstar.jsonl", rows[:50])
    found = audited(log, data=table)
    assert len(found.missing) == 10 and len(found.samples) == 60
    assert found.scores[0].headline.clusters == 20
    everything = audited(lmms_eval(tmp_path / "e_samples_mmstar.jsonl", rows), data=table)
    assert everything.scores[0].headline == audited(vlmevalkit(tmp_path / "M_MMStar.xlsx", rows)).scores[0].headline


def test_a_gap_is_rule_missing_items_parsing_noise_or_unexplained(tmp_path: Path) -> None:
    rows = questions()
    found = audited(vlmevalkit(tmp_path / "M_MMStar.xlsx", rows))
    headline, other = (score.headline.value for score in found.scores)
    assert headline < other - 5  # the long answers, in which VLMEvalKit's reader does not look far enough back

    def parts(reported: float, audit: Rescored = found) -> dict[str, float]:
        gap = explain_gap(audit, reported)
        assert math.isclose(sum(part.points for part in gap.parts), reported - gap.scored, abs_tol=1e-9)
        return {part.name: part.points for part in gap.parts}

    assert not any(parts(headline).values())
    by_rule = parts(other)
    assert by_rule["rule"] == pytest.approx(other - headline)
    assert sum(abs(points) for name, points in by_rule.items() if name != "rule") == pytest.approx(0)
    beyond = parts(0.0)  # no part of a log explains so much
    assert beyond["prompt and the rest"] < -30 and -20 < beyond["noise"] < 0

    table = tmp_path / "MMStar.tsv"
    vlmevalkit(table, [{name: value for name, value in row.items() if name != "prediction"} for row in rows])
    cut = audited(vlmevalkit(tmp_path / "N_MMStar.xlsx", rows[:45]), data=table)
    answered = 100 * np.mean([cut.scores[0].by_sample[str(row["index"])] for row in rows[:45]])
    by_missing = parts(float(answered), cut)
    assert by_missing["missing items"] == pytest.approx(answered - cut.scores[0].headline.value)
    assert by_missing["rule"] == pytest.approx(0)
    unread = parts(headline - 30)  # lower than scored: parsing cannot be the reason
    assert unread["parsing"] == 0 and unread["prompt and the rest"] < 0


def test_comparing_says_which_is_better_and_when_nobody_can_tell(tmp_path: Path) -> None:
    rows = questions()
    worse = [{**row, "prediction": "?" if row["index"] % 3 == 0 else row["prediction"]} for row in rows]
    one = audited(vlmevalkit(tmp_path / "A_MMStar.xlsx", worse))
    two = audited(inspect(tmp_path / "b.eval", rows))
    found = compare_runs(one, two)
    assert found.verdict == "the second is better" and found.common == 60 and found.outcome.worse == 0
    assert found.outcome.difference.value == pytest.approx(found.second - found.first)
    assert compare_runs(two, one).verdict == "the first is better"
    assert compare_runs(one, one).verdict.startswith("no difference")
    part = audited(vlmevalkit(tmp_path / "C_MMStar.xlsx", rows[:30]))
    assert (compare_runs(part, two).common, compare_runs(part, two).left_out) == (30, 30)


def test_power_is_what_simulated_pairs_show() -> None:
    """A simulation, the independent formula: with so many images the difference is seen about as often as asked for."""
    rng = np.random.default_rng(0)
    difference, disagreement = 0.1, 0.4
    spread = assumed_spread(0.5, difference, disagreement, per_image=2, icc=0.0)
    images = images_needed(spread, difference, power=0.8)
    assert difference_seen(spread, images) == pytest.approx(difference, rel=0.01)
    chances = [(disagreement + difference) / 2, 1 - disagreement, (disagreement - difference) / 2]
    seen = 0
    for _ in range(400):
        moved = rng.choice([1.0, 0.0, -1.0], size=2 * images, p=chances)
        found = clustered_mean(moved, [n // 2 for n in range(2 * images)], scale=1, ceiling=None)
        assert found.low is not None and found.high is not None
        seen += found.low > 0 or found.high < 0
    assert 0.74 < seen / 400 < 0.87
    # Alike questions about one image are worth one of them.
    assert images_needed(assumed_spread(0.5, 0.1, 0.4, 2, icc=1.0), 0.1) == pytest.approx(2 * images, abs=2)
    measured = measured_spread(
        {str(n): 0.0 for n in range(2 * images)}, {str(n): m for n, m in enumerate(moved)},
        {str(n): str(n // 2) for n in range(2 * images)},
    )  # fmt: skip
    assert measured.per_image == pytest.approx(spread.per_image, rel=0.25)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("audit", "nothing.jsonl"), "no log at nothing.jsonl"),
        (("audit", "other.json"), "is no sample log that is known here"),
        (("audit", "bad.xlsx"), "is no Excel file"),
        (("audit", "bad.eval"), "is no log of Inspect"),
        (("audit", "x_samples_okvqa.jsonl"), "does not have the right answers; give --data PATH"),
        (("audit", "deep.eval"), "is no log of Inspect"),
        (("audit", "empty.eval"), "holds no samples"),
        (("audit", "mixed.jsonl"), "record 2 has no doc_id"),
        (("audit", "twice.jsonl"), "answers question 0 more than once"),
        (("audit", "d_samples_refcoco_bbox_rec_val.jsonl"), "--data PATH gives the questions of refcoco"),
        (("audit", "one.jsonl", "--reported", "nan"), "percent, 0 to 100, not nan"),
        (("audit", "one.jsonl", "--reported", "150"), "percent, 0 to 100, not 150"),
        (("audit", "one.jsonl", "--reported", "0.613"), "say --reported 61.3"),
        (("power", "many.jsonl", "many.jsonl"), "tells nothing about how they vary"),
        (("power",), "give two runs, or --baseline PERCENT"),
        (("power", "--baseline", "99", "--difference", "5"), "both models must stay within 0 and 100"),
        (("power", "--baseline", "50", "--disagreement", "0.5"), "--disagreement is too small"),
        (("compare", "nothing.jsonl", "other.json"), "no log at"),
    ],
)
def test_what_the_asker_can_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"a": 1}')
    Path("bad.xlsx").write_bytes(b"PK nothing")
    Path("bad.eval").write_bytes(b"nothing")
    Path("x_samples_okvqa.jsonl").write_text('{"doc_id": 0, "target": "", "filtered_resps": "red", "input": "?"}')
    Path("deep.eval").write_text("[" * 100_000)
    with zipfile.ZipFile("empty.eval", "w") as archive:
        archive.writestr("header.json", '{"eval": {"task": "mmstar"}}')
    record = '{"doc_id": %d, "target": "yes", "filtered_resps": "yes", "input": "Is it so?"}'
    Path("one.jsonl").write_text(record % 0)
    Path("many.jsonl").write_text("\n".join(record % number for number in range(3)))
    Path("twice.jsonl").write_text(f"{record % 0}\n{record % 0}")
    Path("mixed.jsonl").write_text(f'{record % 0}\n{{"target": "yes"}}')
    Path("d_samples_refcoco_bbox_rec_val.jsonl").write_text(record % 0)
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_options_that_stand_in_the_words_of_a_prompt(tmp_path: Path) -> None:
    """MMStar as lmms-eval asks it."""
    log = tmp_path / "d_samples_mmstar.jsonl"
    prompt = "Which?\nOptions: A: a cat., B: a dog, C: both, D: none\nAnswer with the option's letter from the given"
    record = {"target": "B", "filtered_resps": "B", "input": prompt}
    log.write_text("\n".join(json.dumps({**record, "doc_id": number}) for number in range(3)))
    found = audited(log)
    assert found.samples[0].reference.options == {"A": "a cat.", "B": "a dog", "C": "both", "D": "none"}
    assert [score.headline.value for score in found.scores] == [100, 100]


def test_of_several_filters_the_first_is_read(tmp_path: Path) -> None:
    """lmms-eval writes a record a filter; what the model wrote is in each of them."""
    log = tmp_path / "d_samples_pope.jsonl"
    record = {"doc_id": 0, "target": "yes", "resps": [["Yes."]], "input": "Is there a dog?"}
    log.write_text(
        "\n".join(json.dumps({**record, "filtered_resps": said, "filter": said}) for said in ("strict", "flexible"))
    )
    found = audited(log, benchmark="pope")
    assert (len(found.samples), found.log.items[0].taken, found.scores[0].headline.value) == (1, "strict", 100)


def test_the_verbs_print_tables_and_json(tmp_path: Path) -> None:
    rows = questions()
    log = vlmevalkit(tmp_path / "A_MMStar.xlsx", rows)
    other = lmms_eval(tmp_path / "d_samples_mmstar.jsonl", rows)

    def shown(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    table = shown("audit", str(log), "--reported", "61.3")
    assert "VLMEvalKit log" in table and "prompt and the rest" in table and "lmms_eval" in table
    told = json.loads(shown("audit", str(log), "--reported", "61.3", "--json"))
    assert told["gap"]["reported"] == 61.3 and set(told["rules"]) == {"vlmevalkit", "lmms_eval"}
    assert "no difference that these questions can show" in shown("compare", str(log), str(other))
    assert json.loads(shown("compare", str(log), str(other), "--json"))["common"] == 60
    assert "images show a difference of 1 points" in shown("power", "--baseline", "60")
    assert (
        json.loads(shown("power", "--baseline", "60", "--disagreement", "10", "--json"))["images"] == 7842
    )  # (1.960 + 0.842)² (0.1 - 0.01²) / 0.01²
