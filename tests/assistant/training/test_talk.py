import random
from collections import Counter

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
    # A doubt is one exchange and no telling.
    doubts = [one for one in drawn if one and len(one.history) == 1 and "yes" not in one.question]
    right = sum(one.history[0][1] == "yes" for one in doubts) / len(doubts)
    assert 0.4 < right < 0.6
    assert all(one.answer == "yes" for one in doubts)


def test_it_is_what_was_spoken_of() -> None:
    drawn = [talk_about(COLOUR, [], random.Random(seed)) for seed in range(200)]
    meant = [one for one in drawn if one and one.history[0][1] == "yes"]
    assert meant
    for one in meant:
        assert "ball" in one.history[0][0] and "ball" not in one.question and one.answer == "red"


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
