"""The benchmarks that come as tables: asked with every control, and their figures beside the harnesses' own."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fourfold.eval.benchmarks import BENCHMARKS, Options, benchmark_named
from fourfold.eval.controls import Control
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.prompting import resolve_config
from fourfold.eval.score import score_files
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.prompts.errors import UserError
from tests.eval.benchmarks.tables import picture, right_answers, rows_of, write_predictions, write_tsv
from tests.eval.scorers.agreement import LMMS, VLMEVAL, oracle
from tests.eval.scripted import Script, endpoint

TABLES = (
    "mmbench", "mmstar", "mmmu", "scienceqa", "ai2d", "seedbench", "realworldqa", "mme", "hallusionbench", "chartqa",
    "docvqa",
)  # fmt: skip


@pytest.fixture(scope="module")
def answering() -> Iterator[Script]:
    """An endpoint that knows all right answers by the words of the questions."""
    known = [entry for name in TABLES for entry in right_answers(name)]

    def reply(messages: list[dict[str, Any]]) -> str:
        content = messages[-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        return next((said for question, option, said in known if question in text and option in text), "")

    with endpoint(Script(reply=reply)) as script:
        yield script


@pytest.mark.parametrize("name", TABLES)
def test_right_answers_score_full_marks_and_controls_change_the_picture(
    name: str, tmp_path: Path, answering: Script
) -> None:
    table = write_tsv(name, tmp_path / "table.tsv")
    own = {base64.b64encode(picture(number)).decode() for number in range(4)}

    def run(control: Control) -> Any:
        answering.bodies.clear()
        options = RunOptions(
            name, None, table, tmp_path / control, EndpointModel([answering.url]), control=control,
            prompting=resolve_config(None, name, wording="plain"),
        )  # fmt: skip
        found = run_benchmark(options)
        assert found.failed == 0 and found.result is not None
        return found.result

    shown = {}
    for control in (Control.NONE, Control.BLIND, Control.WRONG_IMAGE):
        result = run(control)
        assert [score.headline.value for score in result.scores] == [100.0] * len(result.scores), control
        urls = [
            body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]
            for body in answering.bodies
            if isinstance(body["messages"][0]["content"], list)
        ]
        assert set(urls) <= own
        prompts = [
            content if isinstance(content, str) else content[-1]["text"]
            for content in (body["messages"][0]["content"] for body in answering.bodies)
        ]
        shown[control] = dict(zip(prompts, urls, strict=False)) if len(urls) == len(prompts) else urls
        with_pictures = sum(number is not None for _, number in rows_of(name))
        assert len(urls) == (0 if control is Control.BLIND else with_pictures)
    if isinstance(shown[Control.NONE], dict):
        assert not shown[Control.NONE].items() & shown[Control.WRONG_IMAGE].items()


@pytest.mark.parametrize("name", TABLES)
def test_answers_of_nothing_are_wrong_and_unread(name: str, tmp_path: Path) -> None:
    table = write_tsv(name, tmp_path / "table.tsv")
    bench = benchmark_named(name)
    samples = bench.read(table, None, Options())
    said = write_predictions(tmp_path / "said.json", {sample.id: "" for sample in samples})
    result = score_files(name, said, table)
    for score in result.scores:
        # MMMU's script draws a letter where it reads none: seven questions of four options.
        assert score.headline.value == pytest.approx(
            100 * 7 / 4 / 8 if (name, score.rule) == ("mmmu", "official") else 0
        )
        assert score.parse_failures == len(samples)


def test_circular_evaluation_as_vlmevalkit_and_lmms_eval_count_it(tmp_path: Path) -> None:
    table = write_tsv("mmbench", tmp_path / "table.tsv")
    said = {"0": "A", "1000000": "D", "1": "B.", "1000001": "A", "2": "red", "1000002": "The answer is (B)",
            "3": "white", "1000003": "I think it could be the white one or the red"}  # fmt: skip
    result = score_files("mmbench", write_predictions(tmp_path / "said.json", said), table)
    scores = {score.rule: score for score in result.scores}
    rows = pd.DataFrame(
        [{**row, "GT": row["answer"], "prediction": said[str(row["index"])]} for row, _ in rows_of("mmbench")]
    )
    names = ("build_choices", "prefetch_answer", "prefetch_circular_group")
    infer = oracle(VLMEVAL, "vlmeval/utils/matching_util.py", "can_infer_option", "can_infer_text", "can_infer")
    group = oracle(VLMEVAL, "vlmeval/dataset/utils/multiple_choice.py", *names, can_infer=infer)
    hits = [group(part) for _, part in rows.groupby(rows["index"] % 1_000_000)]
    assert scores["circular"].headline.value == 100 * sum(bool(hit and hit["hit"]) for hit in hits) / len(hits) == 50
    assert scores["vanilla"].headline.n == 8 and scores["circular"].headline.n == 4
    assert set(scores["circular"].by_sample) == {"0", "1", "2", "3"}
    assert scores["circular"].sub_scores["category/c0"].value == 50


def test_turned_copies_without_their_first_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("index\tquestion\tA\tB\tanswer\n1000004\tWhich?\tred\tblue\tA\n")
    said = write_predictions(tmp_path / "said.json", {"1000004": "A"})
    with pytest.raises(UserError, match="whose first order is not in the file; use --rule vanilla"):
        score_files("mmbench", said, path)
    assert score_files("mmbench", said, path, rule="vanilla").headline.headline.value == 100


MIXED = ["Yes", "No.", "yes, it is", "no", "Yes", "yes", "No", "not sure"]


def test_the_scores_of_mme_are_those_of_both_harnesses(tmp_path: Path) -> None:
    table = write_tsv("mme", tmp_path / "table.tsv")
    result = score_files(
        "mme", write_predictions(tmp_path / "said.json", {str(n): s for n, s in enumerate(MIXED)}), table
    )
    scores = {score.rule: score for score in result.scores}
    rows = [{**row, "score": scores["vlmevalkit"].by_sample[str(row["index"])]} for row, _ in rows_of("mme")]
    rate = oracle(VLMEVAL, "vlmeval/dataset/utils/yorn.py", "MME_rating", load=lambda _: pd.DataFrame(rows))
    theirs = rate("")
    assert scores["vlmevalkit"].sub_scores["perception (of 2000)"].value == pytest.approx(theirs["perception"])
    assert scores["vlmevalkit"].sub_scores["cognition (of 800)"].value == pytest.approx(theirs["reasoning"])
    total = oracle(LMMS, "lmms_eval/tasks/mme/utils.py", "mme_aggregate_results")
    listed = [
        {
            "question_id": row["image_path"],
            "category": row["category"],
            "score": scores["official"].by_sample[str(row["index"])],
        }
        for row, _ in rows_of("mme")
    ]
    ours = scores["official"].sub_scores
    assert ours["perception (of 2000)"].value == pytest.approx(total(listed[:4]))
    assert ours["cognition (of 800)"].value == pytest.approx(total(listed[4:]))


def test_the_three_accuracies_of_hallusionbench_are_vlmevalkits(tmp_path: Path) -> None:
    table = write_tsv("hallusionbench", tmp_path / "table.tsv")
    ids = [f"VD_figure_{n // 4}_{n // 2 % 2}_{n % 2}" for n in range(8)]
    said = dict(zip(ids, ["no", "yes", "No", "no", "yes", "Yes", "No", "Yes."], strict=True))
    score = score_files("hallusionbench", write_predictions(tmp_path / "said.json", said), table).headline
    rows = [
        {"index": f"a_b_c_{key.split('_', 2)[2]}", "l2-category": "figure", "score": score.by_sample[key] == 1}
        for key in ids
    ]
    rate = oracle(VLMEVAL, "vlmeval/dataset/utils/yorn.py", "Hallusion_rating", load=lambda _: pd.DataFrame(rows))
    theirs = rate("").iloc[0]
    assert score.headline.value == theirs["aAcc"]
    assert score.sub_scores["fAcc"].value == theirs["fAcc"] and score.sub_scores["qAcc"].value == theirs["qAcc"]


def test_mmstar_averages_categories_as_lmms_eval(tmp_path: Path) -> None:
    table = write_tsv("mmstar", tmp_path / "table.tsv")
    said = {str(n): "ABBDABCA"[n] for n in range(8)}
    scores = {s.rule: s for s in score_files("mmstar", write_predictions(tmp_path / "said.json", said), table).scores}
    mean = oracle(LMMS, "lmms_eval/tasks/mmstar/utils.py", "mmstar_aggregate_results")
    theirs = mean([{"l2_category": f"l{n % 3}", "score": scores["lmms_eval"].by_sample[str(n)]} for n in range(8)])
    assert scores["lmms_eval"].headline.value == pytest.approx(100 * theirs)
    assert scores["vlmevalkit"].headline.value == 75


def test_official_json_is_read_too(tmp_path: Path) -> None:
    def scored(name: str, content: Any, said: dict[str, str]) -> float:
        (tmp_path / "official.json").write_text(json.dumps(content))
        return score_files(
            name, write_predictions(tmp_path / "said.json", said), tmp_path / "official.json"
        ).headline.headline.value

    problems = {"5": {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": "image.png"}}
    assert scored("scienceqa", problems, {"5": "B"}) == 100
    seed = {"questions": [{"question_id": "7_0", "data_id": "1_2", "question": "?", "answer": "C",
                           "choice_a": "1", "choice_b": "2", "choice_c": "3", "choice_d": "4"}]}  # fmt: skip
    assert scored("seedbench", seed, {"7_0": "C"}) == 100
    pages = {"data": [{"questionId": 9, "question": "Who?", "image": "documents/a_1.png", "answers": ["Bell"]}]}
    assert scored("docvqa", pages, {"9": "bell"}) == 100
    assert scored("chartqa", [{"imgname": "1.png", "query": "?", "label": "100"}], {"0": "104"}) == 100
    bench = [{"category": "VS", "subcategory": "map", "visual_input": "0", "set_id": "0", "figure_id": "0",
              "question_id": "1", "question": "?", "gt_answer": "1", "filename": None}]  # fmt: skip
    assert scored("hallusionbench", bench, {"VS_map_0_0_1": "Yes"}) == 100


def test_real_world_questions_carry_their_options_in_the_text(tmp_path: Path) -> None:
    told = "Please answer directly with only the letter of the correct option and nothing else."
    rows = [
        {"question": f"Where?\nA. left\nB. right\n{told}", "answer": "B"},
        {"question": "How many?", "answer": "3"},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    samples = benchmark_named("realworldqa").read(path, None, Options())
    assert samples[0].reference.text == "right" and samples[0].prompt == rows[0]["question"]
    assert samples[1].prompt.endswith("single word or phrase.")
    said = write_predictions(tmp_path / "said.json", {"0": "(B) right", "1": "3."})
    assert [s.headline.value for s in score_files("realworldqa", said, path).scores] == [100, 100]


def test_every_new_benchmark_is_there() -> None:
    assert set(TABLES) <= set(BENCHMARKS)
