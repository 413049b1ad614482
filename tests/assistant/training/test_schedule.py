from dataclasses import replace
from pathlib import Path

import pytest

import fourfold.assistant.training
from fourfold.assistant.training.recipe import Stage, read_recipe
from fourfold.assistant.training.schedule import Pace, learning_rates, with_steps

TINY = Path(fourfold.assistant.training.__file__).parent / "recipes" / "tiny.yaml"


@pytest.mark.parametrize(
    ("stages", "done", "steps", "expected"),
    [
        ((100,), 0, 250, (250,)),
        ((100,), 60, 61, (61,)),
        ((100,), 60, 60, (60,)),
        ((100, 300), 0, 200, (50, 150)),  # in proportion
        ((100, 300), 50, 400, (100, 300)),  # as planned
        ((100, 300), 100, 250, (100, 150)),  # the first is over and stays
        ((100, 300), 40, 40, (40, 0)),
        ((10, 10), 20, 35, (10, 25)),  # gone on with behind the end
        ((7, 5, 3), 3, 30, (12, 11, 7)),
    ],
)
def test_what_is_left_becomes_longer_or_shorter(stages, done, steps, expected):
    recipe = replace(read_recipe(TINY), stages=tuple(Stage(steps=count) for count in stages))
    fitted = with_steps(recipe, done, steps)
    assert fitted.steps == steps
    assert tuple(stage.steps for stage in fitted.stages) == pytest.approx(expected, abs=1)


def test_the_rate_is_at_its_lowest_at_the_new_end():
    recipe = replace(read_recipe(TINY), stages=(Stage(steps=1000, warmup=10, lora_lr=1.0),))
    for steps in (60, 400, 3000):
        fitted = with_steps(recipe, 50, steps)
        assert learning_rates(fitted, steps - 1)[1] == pytest.approx(0.1, abs=0.01)


def test_a_step_bears_its_part_of_what_comes_between_and_the_first_leg_says_nothing():
    pace = Pace(replace(read_recipe(TINY), evaluate_every=10, checkpoint_every=20))
    assert pace.step is None
    pace.add(10, 100.0)
    assert pace.step is None
    pace.add(10, 5.0)
    pace.add(30, 25.0)
    pace.checkpoint = 4.0
    assert pace.step == pytest.approx(30 / 40 + 4 / 20)
    pace.evaluated(2.0, boxes=False)
    assert pace.step == pytest.approx(30 / 40 + 4 / 20 + 6 / 10)  # what boxes take is guessed
    pace.evaluated(3.0, boxes=True)
    assert pace.step == pytest.approx(30 / 40 + 4 / 20 + 3 / 10)
