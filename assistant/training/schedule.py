"""How fast a run learns at each step, how long its steps take, and how many fit into the time that is left."""

import math
from collections import deque
from dataclasses import replace

from fourfold.assistant.training.recipe import Recipe

_LEGS = 8  # so many last legs say how long a step takes


def learning_rates(recipe: Recipe, step: int) -> tuple[float, float]:
    """Learning rates of projector and adapter in step `step` (from 0): warm-up, then a cosine down to a tenth."""
    for stage in recipe.stages:
        if step < stage.steps:
            break
        step -= stage.steps
    else:
        step = stage.steps - 1
    if step < stage.warmup:
        factor = (step + 1) / stage.warmup
    else:
        progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
        factor = 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
    return stage.projector_lr * factor, stage.lora_lr * factor


def with_steps(recipe: Recipe, done: int, steps: int) -> Recipe:
    """The recipe with `steps` steps in all, of which `done` are done: what is left of its stages, longer or shorter.

    Stages that are over stay as they are, the others keep their proportions. `steps` is at least `done`.
    """
    stages = list(recipe.stages)
    first, over = 0, 0  # the stage that is under way, and the steps of those before it
    while first < len(stages) - 1 and over + stages[first].steps <= done:
        over += stages[first].steps
        first += 1
    left = [stage.steps for stage in stages[first:]]
    left[0] = max(0, left[0] - (done - over))
    whole, new = sum(left), steps - done
    reached, ends = 0, [0]
    for number, count in enumerate(left):
        reached += count
        last = number == len(left) - 1
        ends.append(new if last or not whole else round(new * reached / whole))
    for number, stage in enumerate(stages[first:]):
        count = ends[number + 1] - ends[number] + (done - over if number == 0 else 0)
        stages[first + number] = replace(stage, steps=count)
    return replace(recipe, stages=tuple(stages))


class Pace:
    """Seconds that the parts of a run take, by the last of each: steps, evaluations and checkpoints."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._began = False
        self._legs: deque[tuple[int, float]] = deque(maxlen=_LEGS)
        self._evaluations: dict[bool, float] = {}  # with and without boxes
        self.checkpoint = 1.0

    def add(self, steps: int, seconds: float) -> None:
        """Steps since the last call; the first of these legs, in which much starts, says nothing."""
        if self._began:
            self._legs.append((steps, seconds))
        self._began = True

    def evaluated(self, seconds: float, *, boxes: bool) -> None:
        """An evaluation was made."""
        self._evaluations[boxes] = seconds

    @property
    def evaluation(self) -> float:
        """With boxes; one without them takes a third of the time, or less."""
        return self._evaluations.get(True, 3 * self._evaluations.get(False, 0.0))

    @property
    def step(self) -> float | None:
        """With its part of the evaluations and of the checkpoints; None before the second leg."""
        if not self._legs:
            return None
        steps, seconds = (sum(leg) for leg in zip(*self._legs, strict=True))
        beside = self.evaluation / self._recipe.evaluate_every + self.checkpoint / self._recipe.checkpoint_every
        return seconds / steps + beside
