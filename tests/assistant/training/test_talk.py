import random
from collections import Counter
from dataclasses import replace

import pytest

from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.data.sample import Turn
from fourfold.assistant.training.data.talk import talk_about, wrong_answer
from fourfold.prompts.tasks import Task

COLOUR = Turn(Task.VQA, "[vqa] what colour is the ball?", "red", facts={"kind": "colour", "object": "ball"})


def turn(answer: str, **facts: object) -> Turn:
    return Turn(Task.VQA, "[vqa] what is it?", answer, facts={"kind": "what", **facts})


@pytest.mark.parametrize("right", ["yes", "no", "0", "3", "red", "dog"])
def test_a_wrong_answer_is_wrong_and_of_the_same_sort(right: str) -> None:
    rng = random.Random(0)
    for _ in range(50):
        wrong = wrong_answer(turn(right, names=("dog", "puppy")), ["dog", "puppy", "blue", "2", "cat"], rng)
        assert wrong != right
        assert (wrong in ("yes", "no")) == (right in ("yes", "no"))
        assert wrong.isdigit() == right.isdigit()
        if right == "dog":
            assert wrong == "cat"


def test_who_is_doubted_is_as_often_right_as_wrong() -> None:
    """Otherwise to give in, or never to, would be right more often than not without a look at the picture."""
    drawn = [talk_about(turn("yes"), [], random.Random(seed)) for seed in range(1500)]
    doubts = [one for one in drawn if one and one.facts["move"] == "doubt"]
    right = sum(one.history[0][1] == "yes" for one in doubts) / len(doubts)
    assert 0.4 < right < 0.6
    assert all(one.answer == "yes" for one in doubts)


def test_it_is_what_was_spoken_of() -> None:
    drawn = [talk_about(COLOUR, [], random.Random(seed)) for seed in range(200)]
    meant = [one for one in drawn if one and one.facts["move"] == "it"]
    assert meant
    for one in meant:
        assert "ball" in one.history[0][0] and "ball" not in one.question and one.answer == "red"


def test_where_it_is_asks_for_the_box_of_what_was_spoken_of() -> None:
    place = Turn(Task.REFER, "[refer] the red star", "{<1><2><3><4>}", facts={"kind": "refer", "phrase": "red star"})
    for seed in range(30):
        one = talk_about(place, [], random.Random(seed))
        assert one and one.task is Task.REFER and one.answer == place.answer and "star" not in one.question
        assert "is there a red star?" in one.history[0][0] and one.history[0][1] == "yes"
    assert talk_about(replace(place, facts={"kind": "refer", "phrase": "his left hand"}), [], random.Random(0)) is None


def test_what_came_before_a_hint_or_telling_was_wrong_and_the_last_answer_is_right() -> None:
    moves = Counter()
    for kind, right in (("colour", "red"), ("existence", "yes"), ("count", "3"), ("what", "red star"), ("what", "dog")):
        one = Turn(Task.VQA, "[vqa] what is it?", right, facts={"kind": kind, "names": (right,)})
        for seed in range(200):
            drawn = talk_about(one, ["cat", "{<1><2><3><4>}", "STOP", "bottle, alarm"], random.Random(seed))
            assert drawn and drawn.answer == right
            moves[drawn.facts["move"]] += 1
            if drawn.facts["move"] not in ("hint", "told"):
                continue
            said = [answer for _, answer in drawn.history]
            again = drawn.question == one.question  # asked again after being told
            assert right not in said[: len(said) - again] and (said[-1] == right) == again
            assert not set("{,") & set("".join(said)) and "STOP" not in said
            words = [*(asked for asked, _ in drawn.history[1:]), drawn.question]
            assert not any(odd in text for text in words for odd in ("it is yes", "it is no", "is dog", "an '"))
    assert min(moves["doubt"], moves["told"], moves["hint"]) > 100


def test_a_caption_is_not_talked_about() -> None:
    assert talk_about(Turn(Task.CAPTION, "[caption]", "A dog runs."), [], random.Random(0)) is None
    assert talk_about(turn("a very long answer"), [], random.Random(0)) is None


def test_scenes_bring_talk_and_other_questions_stay_as_they_were() -> None:
    tasks = {"existence": 1, "colour": 1, "count": 1}
    plain = Mixture(MixtureConfig(scenes=40, scenes_per_epoch=40, scene_tasks=tasks, seed=1))
    talks = Mixture(MixtureConfig(scenes=40, scenes_per_epoch=40, scene_tasks={**tasks, "talk": 2}, seed=1))
    for entry in plain.epoch(0):
        assert not any(one.history for one in plain.draw(entry, 0).turns)
    kinds = Counter(one.facts["kind"] for entry in talks.epoch(0) for one in talks.draw(entry, 0).turns)
    assert kinds["talk"] > 40 and len(kinds) > 2
    assert talks.draw(talks.epoch(0)[0], 0) == talks.draw(talks.epoch(0)[0], 0)
