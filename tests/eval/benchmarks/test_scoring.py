"""Each benchmark on files in its official shape, small ones made here and the real ones where they are at hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fourfold.assistant.grounding import BoxFormat
from fourfold.eval.benchmarks import BENCHMARKS, Options
from fourfold.eval.score import Result, score_files
from fourfold.prompts.errors import UserError


def save(path: Path, content: Any) -> Path:
    if isinstance(content, list) and path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in content))
    else:
        path.write_text(json.dumps(content))
    return path


def score(tmp_path: Path, benchmark: str, predictions: Any, annotations: Any, **kwargs: Any) -> Result:
    return score_files(
        benchmark,
        save(tmp_path / "predictions.json", predictions),
        annotations if isinstance(annotations, Path) else save(tmp_path / "annotations.jsonl", annotations),
        **kwargs,
    )


def figure(result: Result, rule: str, name: str) -> float:
    found = next(s for s in result.scores if s.rule == rule).sub_scores[name]
    return found if isinstance(found, float) else found.value


# VQA


def test_okvqa_from_the_command_line_figures(shared_data: Path) -> None:
    folder = shared_data / "okvqa"
    result = score_files(
        "okvqa",
        folder / "pica_VinVL_n16_repeat5_46.809354.json",
        folder / "okvqa_val_answers10_stemmed_v1.1.json",
        questions=folder / "OpenEnded_mscoco_val2014_questions.json",
    )
    shown = result.to_json()
    assert [s.rule for s in result.scores] == ["vqa_2021", "vqa_pre2021", "minigpt4"]
    assert round(shown["rules"]["vqa_pre2021"]["value"], 3) == 46.861
    assert shown["n"] == 5046 and shown["clusters"] < 5046
    assert shown["low"] < shown["value"] < shown["high"]
    json.dumps(shown, allow_nan=False)


def test_vizwiz_types_and_answerability(tmp_path: Path, shared_data: Path) -> None:
    annotations = shared_data / "vizwiz" / "val_annotations_vqa_format.json"
    records = json.loads(annotations.read_text())["annotations"]
    result = score(tmp_path, "vizwiz", {str(r["question_id"]): "unanswerable" for r in records}, annotations)
    assert round(result.headline.headline.value, 3) == 52.123
    assert round(next(s for s in result.scores if s.rule == "minigpt4").headline.value, 3) == 53.515
    base = sum(r["question_type"] == "unanswerable" for r in records) / len(records)
    assert figure(result, "vizwiz", "answerability/average_precision") == pytest.approx(100 * base)
    assert figure(result, "vizwiz", "answerability/f1") == pytest.approx(100 * 2 * base / (1 + base))
    assert figure(result, "vizwiz", "question_type/unanswerable") > 99


def test_vizwiz_own_files_name_the_image(tmp_path: Path) -> None:
    annotations = [
        {"image": "a.jpg", "question": "?", "answers": [{"answer": "cat"}] * 10, "answer_type": "other"},
        {
            "image": "b.jpg",
            "question": "?",
            "answers": [{"answer": "unanswerable"}] * 10,
            "answer_type": "unanswerable",
        },
    ]
    predictions = [{"image": "b.jpg", "answer": "unanswerable"}, {"image": "a.jpg", "answer": "cat"}]
    assert score(tmp_path, "vizwiz", predictions, annotations).headline.headline.value == 100


def test_ground_truth_field(tmp_path: Path) -> None:
    annotations = [{"question_id": 1, "image_id": 1, "answers": [{"answer": "race", "raw_answer": "racing"}] * 10}]
    raw = score(tmp_path, "okvqa", {"1": "racing"}, annotations, options=Options(gt_field="raw_answer"))
    assert raw.headline.headline.value == 100 and raw.facts["gt_field"] == "raw_answer"
    assert score(tmp_path, "okvqa", {"1": "racing"}, annotations).headline.headline.value == 0


def test_missing_counts_as_wrong_only_when_allowed(tmp_path: Path) -> None:
    annotations = [{"question_id": i, "image_id": i, "answers": ["cat"] * 10} for i in range(4)]
    with pytest.raises(UserError, match="1 of 4 questions have no prediction"):
        score(tmp_path, "vqav2", {"0": "cat", "1": "cat", "2": "cat"}, annotations)
    result = score(tmp_path, "vqav2", {"0": "cat", "1": "cat", "2": "cat"}, annotations, allow_missing=True)
    assert result.headline.headline.value == 75
    assert result.to_json()["missing"] == 1


def test_100_kb_answer(tmp_path: Path) -> None:
    annotations = [{"question_id": 1, "answers": ["cat"] * 10}]
    assert score(tmp_path, "textvqa", {"1": "cat, " * 20_000}, annotations).headline.headline.value == 0


# GQA


def gqa(answer: str, image: str, structural: str, **rest: Any) -> dict[str, Any]:
    types = {"structural": structural, "semantic": "obj"}
    return {"answer": answer, "imageId": image, "question": "?", "types": types, **rest}


GQA = {
    "1": gqa("yes", "a", "verify", entailed=["2"]),
    "2": gqa("no", "a", "logical", entailed=[]),
    "3": gqa("dog", "b", "query", groups={"global": "animal"}),
    "4": gqa("cat", "c", "query", groups={"global": "animal"}),
}


def test_gqa_is_exact_to_the_letter(tmp_path: Path) -> None:
    annotations = save(tmp_path / "gqa.json", GQA)
    result = score(tmp_path, "gqa", {"1": "Yes", "2": "no", "3": "dog.", "4": "dog"}, annotations)
    assert [s.headline.value for s in result.scores] == [25, 75, 50]
    assert figure(result, "cleaned", "form/binary") == 100
    assert figure(result, "cleaned", "form/open") == 50
    assert figure(result, "cleaned", "structural/query") == 50
    # Gold: one dog, one cat; predicted: two dogs. ((2-1)^2 + (0-1)^2) / 1, one group of two.
    assert figure(result, "cleaned", "distribution (chi-square, lower is better)") == pytest.approx(2)
    # Question 1 entails 2; under `cleaned` both are right.
    assert figure(result, "cleaned", "consistency") == 100


def test_gqa_without_the_entailed_questions_has_no_consistency(tmp_path: Path, shared_data: Path) -> None:
    annotations = shared_data / "gqa" / "ood_testdev_head.json"
    truth = {key: value["answer"] for key, value in json.loads(annotations.read_text()).items()}
    result = score(tmp_path, "gqa", truth, annotations)
    assert result.headline.headline.value == 100 and result.n == 1733
    assert "consistency" not in result.headline.sub_scores
    assert any("no consistency" in note for note in result.headline.notes)


# RefCOCO


def referent(**changes: Any) -> dict[str, Any]:
    return {
        "img_id": "COCO_train2014_1_7",
        "sents": "dog",
        "bbox": [10, 20, 30, 40],
        "width": 100,
        "height": 200,
    } | changes


def test_refcoco_answers_as_text(tmp_path: Path) -> None:
    annotations = save(
        tmp_path / "refcoco.json", [referent(), referent(sents="left dog"), referent(img_id="COCO_train2014_2_8")]
    )
    predictions = [
        {"id": 0, "answer": "{<10><10><40><30>}"},
        {"id": 1, "answer": "it is here: {<10><10><40><30>}"},  # MiniGPT-v2 wants the box first
        {"id": 2, "answer": "I see no dog"},
    ]
    result = score(tmp_path, "refcoco", predictions, annotations)
    official, minigpt4 = result.scores
    assert official.headline.value == pytest.approx(200 / 3) and official.parse_failures == 1
    assert minigpt4.headline.value == pytest.approx(100 / 3) and minigpt4.parse_failures == 2
    assert figure(result, "official", "mean_iou (0..1)") == pytest.approx(2 / 3)
    assert official.headline.clusters == 2


@pytest.mark.parametrize(
    ("prediction", "declared"),
    [
        ({"box": [10, 20, 40, 60]}, None),
        ({"bbox": [10, 20, 30, 40]}, None),
        ({"answer": [10, 20, 40, 60]}, BoxFormat.PIXELS),
        ({"box": [0.1, 0.1, 0.4, 0.3]}, BoxFormat.UNIT),
        ({"box": [10, 10, 40, 30]}, BoxFormat.PERCENT),
        ({"answer": "the dog is at [0.1, 0.1, 0.4, 0.3]"}, BoxFormat.UNIT),
        ({"answer": '```json\n{"bbox_2d": [10, 20, 40, 60]}```'}, BoxFormat.PIXELS),
    ],
)
def test_refcoco_box_formats(tmp_path: Path, prediction: dict[str, Any], declared: BoxFormat | None) -> None:
    annotations = save(tmp_path / "refcoco.json", [referent()])
    result = score(tmp_path, "refcoco", [{"id": 0, **prediction}], annotations, options=Options(box_format=declared))
    assert figure(result, "official", "mean_iou (0..1)") == pytest.approx(1)


def test_undeclared_units_stop_the_run(tmp_path: Path) -> None:
    annotations = save(tmp_path / "refcoco.json", [referent()])
    with pytest.raises(UserError, match="--box-format unit"):
        score(tmp_path, "refcoco", [{"id": 0, "box": [0.1, 0.1, 0.4, 0.3]}], annotations)


def test_swapped_corners_are_unreadable(tmp_path: Path) -> None:
    annotations = save(tmp_path / "refcoco.json", [referent()])
    result = score(tmp_path, "refcoco", [{"id": 0, "box": [40, 60, 10, 20]}], annotations)
    assert (result.headline.headline.value, result.headline.parse_failures) == (0, 1)


def test_results_by_referent_as_in_minigpt4(tmp_path: Path) -> None:
    rows = [referent(), referent(sents="left dog"), referent(img_id="COCO_train2014_2_8", bbox=[50, 100, 50, 100])]
    annotations = save(tmp_path / "refcoco.json", rows)
    predictions = {"COCO_train2014_2_8": ["{<50><50><100><100>}"], "COCO_train2014_1_7": ["{<10><10><40><30>}", "?"]}
    assert score(tmp_path, "refcoco", predictions, annotations).headline.headline.value == pytest.approx(200 / 3)
    with pytest.raises(UserError, match=r"COCO_train2014_2_8 \(answer 2\)"):
        score(tmp_path, "refcoco", {**predictions, "COCO_train2014_2_8": ["a", "b"]}, annotations)


def test_the_two_iou_rules_differ_at_the_threshold(tmp_path: Path) -> None:
    # Half of the box exactly: continuous 0.5 is enough; with +1 it is 21 * 51 / (41 * 51), more than half.
    annotations = save(tmp_path / "refcoco.json", [referent(bbox=[0, 0, 40, 50], width=100, height=100)])
    result = score(tmp_path, "refcoco", [{"id": 0, "answer": "{<0><0><20><50>}"}], annotations)
    assert [s.headline.value for s in result.scores] == [100, 100]
    assert figure(result, "official", "mean_iou (0..1)") == pytest.approx(0.5)
    assert figure(result, "minigpt4", "mean_iou (0..1)") == pytest.approx(21 / 41)


@pytest.mark.parametrize("split", ["refcoco+_testB", "refcocog_test"])
def test_ground_truth_in_hundredths_scores_full(tmp_path: Path, shared_data: Path, split: str) -> None:
    annotations = shared_data / "refcoco" / f"{split}.json"
    predictions = []
    for number, record in enumerate(json.loads(annotations.read_text())):
        x, y, w, h = record["bbox"]
        sides = (x / record["width"], y / record["height"], (x + w) / record["width"], (y + h) / record["height"])
        text = "".join(f"<{min(math.floor(100 * max(side, 0)), 100)}>" for side in sides)
        predictions.append({"id": number, "answer": f"{{{text}}}"})
    result = score(tmp_path, split.split("_")[0], predictions, annotations)
    assert result.headline.headline.value == pytest.approx(100, abs=0.06)
    assert figure(result, "official", "mean_iou (0..1)") == pytest.approx(0.949, abs=0.012)
    assert result.facts["split"] == split.split("_")[1]


def test_rows_are_rows_where_referents_have_small_numbers_too(tmp_path: Path) -> None:
    """Copies on the Hub number referents; row 1 is another thing than referent 1."""
    near, far = [0, 0, 40, 50], [60, 50, 40, 50]
    records = [
        referent(img_id=number, sents=words, bbox=box, width=100, height=100, image="a.jpg")
        for number, box in ((0, near), (1, far))
        for words in ("one", "other")
    ]
    said = [{"id": row, "answer": "{<0><0><40><50>}" if row < 2 else "{<60><50><100><100>}"} for row in range(4)]
    result = score(tmp_path, "refcoco", said, save(tmp_path / "refcoco.json", records))
    assert result.headline.headline.value == 100


def test_another_family_is_recognised_by_its_denominator(tmp_path: Path, shared_data: Path) -> None:
    with pytest.raises(UserError, match="that is refcocog val, not refcoco"):
        score(tmp_path, "refcoco", [], shared_data / "refcoco" / "refcocog_val.json")


def test_nan_in_the_ground_truth(tmp_path: Path) -> None:
    annotations = save(tmp_path / "refcoco.json", [referent(bbox=[1, 2, float("nan"), 4])])
    with pytest.raises(UserError, match="record 0: bbox"):
        score(tmp_path, "refcoco", [{"id": 0, "answer": "x"}], annotations)


# POPE, VSR, HatefulMemes, IconVQA


POPE = [
    {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "a.jpg", "text": "Is there a car in the image?", "label": "no"},
    {"question_id": 3, "image": "b.jpg", "text": "Is there a cat in the image?", "label": "yes"},
    {"question_id": 4, "image": "b.jpg", "text": "Is there a bus in the image?", "label": "no"},
]


def test_pope_figures_and_what_neither_counts_as(tmp_path: Path) -> None:
    result = score(tmp_path, "pope", {"4": "No.", "1": "Yes, there is", "2": "Yes", "3": "maybe"}, POPE)
    pope, strict, minigpt4 = result.scores
    assert pope.headline.value == 75  # "maybe" is a yes to POPE's script
    assert figure(result, "pope", "yes_ratio") == 75
    assert figure(result, "pope", "f1") == pytest.approx(100 * 2 * 2 / (3 + 2))
    assert strict.headline.value == 50 and strict.parse_failures == 1
    assert figure(result, "strict", "recall") == 50
    assert figure(result, "strict", "precision") == 50
    assert minigpt4.headline.value == 0  # not one answer is exactly yes or no


def test_pope_is_joined_by_id_not_by_line(tmp_path: Path, shared_data: Path) -> None:
    annotations = shared_data / "pope" / "coco_pope_adversarial.json"
    labels = [json.loads(line) for line in annotations.read_text().splitlines()]
    answers = [{"question_id": r["question_id"], "image": r["image"], "answer": r["label"]} for r in labels]
    assert score(tmp_path, "pope", list(reversed(answers)), annotations).headline.headline.value == 100
    with pytest.raises(UserError, match="90 of 3000 questions have no prediction"):
        score(tmp_path, "pope", answers[90:], annotations)
    short = score(tmp_path, "pope", answers[90:], annotations, allow_missing=True)
    assert short.headline.headline.value == pytest.approx(97)


def test_pope_answers_of_another_image_or_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"question 1 is about a\.jpg"):
        score(tmp_path, "pope", [{"id": 1, "image": "b.jpg", "answer": "yes"}], POPE)
    with pytest.raises(UserError, match="another split"):
        score(tmp_path, "pope", [{"id": 1, "question": "Is there a sofa in the image?", "answer": "yes"}], POPE)


def test_vsr(tmp_path: Path) -> None:
    rows = [
        {"image": "a.jpg", "caption": "The cat is on the mat.", "label": 1, "relation": "on"},
        {"image": "b.jpg", "caption": "The cat is under the mat.", "label": 0, "relation": "under"},
        {"image": "b.jpg", "caption": "The mat is on the cat.", "label": 0, "relation": "on"},
    ]
    official, minigpt4 = score(tmp_path, "vsr", {"0": "True.", "1": "no", "2": "hm"}, rows).scores
    assert official.headline.value == pytest.approx(200 / 3) and official.parse_failures == 1
    assert minigpt4.headline.value == 0
    assert official.sub_scores["relation/on"].value == 50  # type: ignore[union-attr]
    named = [{"image": row["image"], "caption": row["caption"], "answer": "true"} for row in rows]
    assert score(tmp_path, "vsr", named, rows).headline.headline.value == pytest.approx(100 / 3)


def test_hateful_memes_auroc_needs_scores(tmp_path: Path) -> None:
    rows = [{"id": i, "img": f"{i}.png", "label": int(i < 2), "text": "x"} for i in range(4)]
    words = score(tmp_path, "hatefulmemes", {"0": "yes", "1": "no", "2": "no", "3": "no"}, rows)
    assert words.headline.headline.value == 75
    assert "auroc" not in words.headline.sub_scores and "no AUROC" in words.headline.notes[0]
    scored = [{"id": i, "score": s} for i, s in enumerate([0.9, 0.4, 0.45, 0.1])]
    result = score(tmp_path, "hatefulmemes", scored, rows)
    assert figure(result, "official", "auroc") == pytest.approx(75)
    assert result.headline.headline.value == 75


def test_iconvqa_ranks_candidates(tmp_path: Path) -> None:
    rows = [
        {"image_id": "1", "question": "?", "choices": ["2", "3", "4"], "answer": 1},
        {"image_id": "2", "question": "?", "choices": ["red", "blue"], "answer": 0},
    ]
    ranked = [{"id": "1", "scores": [-3.0, -1.0, -2.0]}, {"id": "2", "scores": [-3.0, -1.0]}]
    assert score(tmp_path, "iconvqa", ranked, rows).headline.headline.value == 50
    official, minigpt4 = score(tmp_path, "iconvqa", {"1": "3", "2": "Red."}, rows).scores
    assert (official.headline.value, minigpt4.parse_failures) == (100, 2)
    with pytest.raises(UserError, match="3 candidates but 2 scores"):
        score(tmp_path, "iconvqa", [{"id": "1", "scores": [1, 2]}, ranked[1]], rows)


# Wrong files


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_wrong_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"annotations\.jsonl is no"):
        score(tmp_path, name, {"1": "x"}, [{"something": "else"}])


def test_unknown_benchmark_and_rule(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are: okvqa"):
        score(tmp_path, "okvqq", {}, [])
    with pytest.raises(UserError, match="gqa has no rule 'vqa_2021'; it has: official"):
        score(tmp_path, "gqa", {}, [], rule="vqa_2021")
