import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.eval.scorers.vqa_accuracy import (
    VQA_RULES,
    evalai_m4c,
    leave_one_out,
    vizwiz,
    vizwiz_minigpt4,
    vqa_2021,
    vqa_pre2021,
)


@pytest.mark.parametrize(("matches", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_leave_one_out_levels(matches: int, expected: float) -> None:
    assert leave_one_out([i < matches for i in range(10)]) == pytest.approx(expected)


def test_2021_normalises_nothing_where_all_agree() -> None:
    assert vqa_2021("Cat", ["cat"] * 10) == 0
    assert vqa_2021("Cat", ["cat"] * 9 + ["dog"]) == 1
    assert vqa_pre2021("Cat", ["cat"] * 10) == 1


def test_before_2021_only_stripped_punctuation_from_references() -> None:
    references = ["the cat"] * 9 + ["dog"]
    assert vqa_pre2021("the cat", references) == 0  # the article goes from the answer alone
    assert vqa_2021("the cat", references) == 1


def test_equal_answers_do_not_collapse() -> None:
    # The official code compares records; without ids, nine "cat" records would be one.
    assert evalai_m4c("cat", ["cat"] * 2 + ["dog"] * 8) == pytest.approx(0.6)
    assert vizwiz("cat", ["cat"] * 2 + ["dog"] * 8) == pytest.approx(0.6)


def test_minigpt4_on_vizwiz_needs_three_exact_matches() -> None:
    assert vizwiz_minigpt4("Cat", ["cat", "CAT", "the cat", "dog"]) == pytest.approx(2 / 3)


WORDS = st.sampled_from(
    ["cat", "the cat", "Cat.", "dog", "2", "two", "none", "0", "man's", "dont", "don't", "1,000", "a, b"]
)


@given(answer=WORDS, references=st.lists(WORDS, min_size=10, max_size=10))
@settings(max_examples=250, deadline=None)
def test_m4c_accuracy_equals_lmms_eval_with_leave_one_out(
    lmms_vqa: ModuleType, answer: str, references: list[str]
) -> None:
    clean = lmms_vqa.EvalAIAnswerProcessor()
    numbered = [(index, clean(reference)) for index, reference in enumerate(references)]
    accuracies = []
    for left_out in numbered:
        others = [other for other in numbered if other != left_out]
        accuracies.append(min(1, sum(text == clean(answer) for _, text in others) / 3))
    assert evalai_m4c(answer, references) == pytest.approx(sum(accuracies) / 10)


@pytest.fixture(scope="module")
def pica(shared_data: Path) -> dict[str, str]:
    records = json.loads((shared_data / "okvqa" / "pica_VinVL_n16_repeat5_46.809354.json").read_text())
    return {str(record["question_id"]): record["answer"] for record in records}


@pytest.mark.parametrize(("file", "expected"), [("stemmed_v1.1", 46.861), ("raw", 47.162)])
def test_published_predictions_on_okvqa(shared_data: Path, pica: dict[str, str], file: str, expected: float) -> None:
    truth = json.loads((shared_data / "okvqa" / f"okvqa_val_answers10_{file}.json").read_text())
    scores = [VQA_RULES["vqa_pre2021"](pica[key], [a["answer"] for a in value]) for key, value in truth.items()]
    assert round(100 * sum(scores) / len(scores), 3) == expected


@pytest.fixture(scope="module")
def vizwiz_references(shared_data: Path) -> list[list[str]]:
    content = json.loads((shared_data / "vizwiz" / "val_annotations_vqa_format.json").read_text())
    return [[answer["answer"] for answer in record["answers"]] for record in content["annotations"]]


def test_constant_answer_on_vizwiz(vizwiz_references: list[list[str]]) -> None:
    for rule, expected in ((vizwiz, 52.123), (evalai_m4c, 52.123), (vizwiz_minigpt4, 53.515)):
        scores = [rule("unanswerable", references) for references in vizwiz_references]
        assert round(100 * sum(scores) / len(scores), 3) == expected


def test_majority_answer_on_vizwiz(vizwiz_references: list[list[str]]) -> None:
    scores = [vizwiz(Counter(references).most_common(1)[0][0], references) for references in vizwiz_references]
    assert round(100 * sum(scores) / len(scores), 3) == 94.017
