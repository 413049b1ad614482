import random
from collections import Counter
from dataclasses import replace

import pytest

from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.data.page import write_page
from fourfold.assistant.training.data.sample import Turn
from fourfold.assistant.training.data.small_talk import (
    as_typed,
    beside_a_picture,
    general_questions,
    without_picture,
)
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

SCENES = MixtureConfig(
    scenes=60, scenes_per_epoch=50, scene_tasks={"existence": 1, "colour": 1, "caption": 1}, multi_turn=0.3, seed=4
)


def test_general_questions_have_one_right_short_answer() -> None:
    pairs = general_questions()
    assert len(pairs) > 300 and len(dict(pairs)) == len(pairs)
    signs = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    sums = 0
    for question, answer in pairs:
        words = question.rstrip("?").split()
        assert question.endswith("?") and 0 < len(answer.split()) <= 2
        if words[:2] == ["what", "is"] and words[2].isdigit():
            assert int(answer) == signs[words[3]](int(words[2]), int(words[4]))
            sums += 1
    assert sums > 100
    opposites = {question.split()[-1].rstrip("?"): answer for question, answer in pairs if "opposite" in question}
    assert len(opposites) > 60 and "light" not in opposites
    assert all(opposites.get(answer, one) == one for one, answer in opposites.items())


@pytest.mark.parametrize("draw", [without_picture, beside_a_picture])
def test_small_talk_is_answered_in_plain_words(draw) -> None:
    for seed in range(500):
        turn = draw(random.Random(seed))
        assert not set("<>{}[]") & set(turn.answer) and not turn.boxes, turn
        assert turn.question.strip() and turn.answer.strip()


def test_a_question_about_a_picture_that_is_not_there_asks_for_one() -> None:
    drawn = [without_picture(random.Random(seed)) for seed in range(500)]
    asked = [one for one in drawn if "in the picture" in one.question]
    assert asked and all("no picture" in one.answer and "add one" in one.answer for one in asked)
    # With a picture there nobody is told that there is none.
    beside = [beside_a_picture(random.Random(seed)).answer for seed in range(500)]
    assert not any("no picture" in answer or "Add a picture" in answer for answer in beside)


def test_places_and_captions_are_asked_for_as_people_type() -> None:
    place = Turn(Task.REFER, "[refer] red star", "{<1><2><3><4>}", facts={"kind": "refer", "phrase": "red star"})
    caption = Turn(Task.CAPTION, "[caption]", "a red star", facts={"kind": "caption"})
    other = Turn(Task.VQA, "[vqa] is there a star?", "yes", facts={"kind": "existence"})
    for turn, most_tagged in ((place, 0.6), (caption, 0.3)):
        typed = [as_typed(turn, random.Random(seed)) for seed in range(300)]
        assert all(replace(one, question=turn.question) == turn for one in typed), "nothing but the question changes"
        assert 0.1 < sum(turn.task.tag in one.question for one in typed) / len(typed) < most_tagged
        assert len({one.question for one in typed}) > 20
    asked = [as_typed(place, random.Random(seed)).question for seed in range(300)]
    assert all("red star" in question.lower() for question in asked)
    assert not {"red star", "the red star"} & {question.lower().rstrip(".!") for question in asked}, "what of it?"
    # The same words stand with a picture and without one, or they would tell which it is.
    alone = {without_picture(random.Random(seed)).question for seed in range(3000)}
    captions = {as_typed(caption, random.Random(seed)).question for seed in range(300)}
    assert len(captions & alone) > 20
    assert as_typed(other, random.Random(0)) == other
    tagged = []
    for mixture in (Mixture(SCENES), Mixture(replace(SCENES, typed=1.0))):
        drawn = [turn for entry in mixture.epoch(0) for turn in mixture.draw(entry, 0).turns]
        captioned = [turn.question.startswith("[caption]") for turn in drawn if turn.task is Task.CAPTION]
        tagged.append(sum(captioned) / len(captioned))
    assert tagged[0] > 0.7 and tagged[1] < 0.4, "a mixture has them so where it says so"


def test_an_epoch_has_the_declared_parts_and_the_other_samples_stay_as_they_were() -> None:
    plain = Mixture(SCENES)
    mixed = Mixture(replace(SCENES, no_picture=0.2, two_pictures=0.1))
    plan = mixed.epoch(0)
    counts = Counter(name for name, _ in plan)
    assert counts["scene"] == 50
    assert counts["no picture"] / len(plan) == pytest.approx(0.2, abs=0.01)
    assert counts["two pictures"] / len(plan) == pytest.approx(0.1, abs=0.01)
    for entry in plain.epoch(0):
        assert entry in plan and mixed.draw(entry, 0) == plain.draw(entry, 0)
    assert mixed.draw(("no picture", 1), 0) == mixed.draw(("no picture", 1), 0) != mixed.draw(("no picture", 1), 1)
    shown = {image.key for image in mixed.images()}
    for entry in plan:
        sample = mixed.draw(entry, 0)
        assert len(sample.images) == {"scene": 1, "no picture": 0, "two pictures": 2}[entry[0]]
        assert {image.key for image in sample.images} <= shown and sample.turns


def test_greetings_are_one_more_turn_of_a_sample_with_a_picture() -> None:
    plain, greets = Mixture(SCENES), Mixture(replace(SCENES, greetings=0.5))
    greeted = conversations = 0
    for entry in plain.epoch(0):
        before, after = plain.draw(entry, 0), greets.draw(entry, 0)
        extra = [turn for turn in after.turns if turn.facts["kind"] == "small talk"]
        assert tuple(turn for turn in after.turns if turn not in extra) == before.turns
        greeted += len(extra)
        conversations += len(extra) * after.multi_turn
    assert 15 <= greeted <= 35 and conversations


def test_a_page_shows_samples_of_any_number_of_pictures_and_what_came_before(tmp_path) -> None:
    tasks = {"existence": 1, "colour": 1, "talk": 2}
    write_page(replace(SCENES, no_picture=0.3, two_pictures=0.3, scene_tasks=tasks), tmp_path / "page.html", count=20)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 20
    assert "no picture" in page and "scenes/train-4-" in page and " and scenes/train-4-" in page and "after: " in page


def test_parts_that_leave_nothing_for_one_picture_are_refused() -> None:
    with pytest.raises(UserError, match="must leave a part"):
        replace(SCENES, no_picture=0.5, two_pictures=0.5)
