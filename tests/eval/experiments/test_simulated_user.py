from collections import Counter
from itertools import islice

import pytest

from fourfold.assistant.refine.record import check
from fourfold.assistant.refine.training.samples import training_set_of
from fourfold.eval.experiments.simulated_user import SCENARIOS, correct, draw

OF_SCENES = [scenario for scenario in SCENARIOS.values() if scenario.source == "scenes"]


@pytest.mark.parametrize("scenario", OF_SCENES, ids=lambda scenario: scenario.name)
def test_no_image_is_tested_with_and_corrected(scenario):
    tested, stream = draw(scenario, 0, 6)
    streamed = list(islice(stream, 12))
    images = [sample.image.id for sample in (*tested, *streamed)]
    assert len(set(images)) == len(images) == 18
    again, _ = draw(scenario, 0, 6)
    other, _ = draw(scenario, 1, 6)
    assert [sample.image.id for sample in again] == images[:6]
    assert not {sample.image.id for sample in other} & set(images)


@pytest.mark.parametrize("scenario", OF_SCENES, ids=lambda scenario: scenario.name)
def test_the_user_knows_a_right_answer_from_a_wrong_one(scenario):
    samples, _ = draw(scenario, 0, 5)
    assert all(scenario.right(samples, [sample.turns[0].answer for sample in samples]))
    assert not any(scenario.right(samples, ["a zebra"] * 5))
    assert scenario.alike is not None
    alike = list(islice(scenario.alike(0), 5))
    assert not {sample.image.id for sample in samples} & {sample.image.id for sample in alike}


def test_a_house_name_is_the_only_right_one():
    (sample,), _ = draw(SCENARIOS["washer"], 0, 1)
    assert SCENARIOS["washer"].right([sample, sample], ["ring", "a washer."]) == [False, True]
    assert all(turn.turns[0].answer != "ring" for turn in islice(SCENARIOS["washer"].alike(0), 20))


def test_numbers_are_balanced():
    samples, _ = draw(SCENARIOS["count"], 0, 20)
    assert set(Counter(sample.turns[0].answer for sample in samples).values()) == {5}


@pytest.mark.parametrize(
    ("form", "taught"),
    [
        ("text", [("[vqa] in", "corner")]),
        ("box", [("[identify]", "thing"), ("[refer]", "box")]),
        ("text and box", [("[vqa] in", "corner"), ("[identify]", "thing"), ("[refer]", "box")]),
    ],
)
def test_one_mistake_is_corrected_in_words_by_a_box_or_both(form, taught):
    (sample,), _ = draw(SCENARIOS["corner"], 0, 1)
    correction = correct(sample, "on the sofa", form, "x-1")
    check(correction)
    (lesson,) = training_set_of([correction], contrast=False).corrected
    assert [turn.question.startswith(asked) for turn, (asked, _) in zip(lesson.turns, taught, strict=True)]
    answers = {"corner": sample.turns[0].answer, "thing": sample.turns[0].facts["thing"]}
    for turn, (_, what) in zip(lesson.turns, taught, strict=True):
        assert turn.answer == answers.get(what, turn.answer) and (what != "box" or turn.answer.startswith("{<"))


def test_related_questions_are_about_the_same_thing():
    samples, _ = draw(SCENARIOS["colour"], 0, 8)
    related = SCENARIOS["colour"].related(samples)
    for kind in ("refer", "identify"):
        for sample in related[kind]:
            own = next(one for one in samples if one.image.id == sample.image.id)
            assert sample.turns[0].boxes == (own.turns[0].facts["box"],)
    assert len(related["identify"]) == 8
