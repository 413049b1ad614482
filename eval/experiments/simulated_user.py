"""A simulated user who knows the truth: what is asked, what is right, and how a wrong answer is corrected.

A scenario is one kind of correction. Three are habits of a house, which no model can know before it is told; two are
things that the model should see and often does not.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, Literal

from fourfold.assistant.english import PEOPLE
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.training.data import ImageRef, Sample, Turn, held_out
from fourfold.assistant.training.data.sample import photos_directory
from fourfold.assistant.training.data.scene_tasks import SCENE_SORTS, identifies, refers
from fourfold.assistant.training.data.scenes import Item, Scene, make_scene
from fourfold.eval.scorers.answers import score_answers
from fourfold.prompts.tasks import Task, instruction

Form = Literal["text", "box", "text and box"]
"""How the user corrects: by the right words, by a box with words around the thing that was asked about, by both."""

_CLEAR = 0.12
"""How far from the middle lines of an image something must lie to be in a corner, in parts of the image."""


@dataclass(frozen=True)
class Scenario:
    """One kind of correction.

    Attributes:
        name: in one word.
        about: in one line.
        source: "scenes" or "photos".
        kind: of the card, by whose rule answers are scored.
        draw: endless or finite samples for a seed; the truth is in `turns[0]`, whose facts may hold `thing`
            and `box`.
        alike: questions of the same form that have another answer and must keep it.
        alike_kind: of the card, by whose rule these are scored.
        superseded: right answers elsewhere that the scenario puts out of use: a task and what used to be said.
        related: what else is known about the things of some samples: name of a kind of the card → samples.
        max_tokens: of an answer.
    """

    name: str
    about: str
    source: str
    kind: str
    draw: Callable[[int], Iterator[Sample]]
    alike: Callable[[int], Iterator[Sample]] | None = None
    alike_kind: str = "what"
    superseded: tuple[tuple[Task, str], ...] = ()
    related: Callable[[Sequence[Sample]], dict[str, list[Sample]]] | None = None
    max_tokens: int = 16

    def right(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[bool]:
        """Whether each answer is right in the user's eyes."""
        return [score >= 0.5 for score in score_answers(self.kind, [sample.turns[0] for sample in samples], answers)]


def correct(sample: Sample, answer: str, form: Form, id: str) -> Correction:
    """What the user puts in the place of a wrong answer."""
    turn = sample.turns[0]
    content = [{"type": "image"}, {"type": "text", "text": turn.question}]
    marked = (CorrectedBox(turn.facts["thing"], turn.facts["box"]),) if form != "text" else None
    return Correction(
        id=id,
        messages=({"role": "user", "content": content},),
        rejected=answer,
        chosen=None if form == "box" else turn.answer,
        boxes=marked,
        verdict="down",
        consent=True,
        model="the simulated user's",
    )


def attachment(image: ImageRef) -> Attachment:
    """An image file: the photo as it lies there, a scene as PNG."""
    return Attachment.from_path(photos_directory() / image.path) if image.path else Attachment.from_image(image.open())


def draw(scenario: Scenario, seed: int, tested: int) -> tuple[list[Sample], Iterator[Sample]]:
    """Samples to be tested with, and the stream to be corrected; no image comes twice.

    Args:
        scenario: of which.
        seed: draws others.
        tested: how many to be tested with; of photos half of what there is at most.
    """
    samples = _once(scenario.draw(seed))
    if scenario.source == "photos":
        there = list(samples)
        tested, samples = min(tested, len(there) // 2), iter(there)
    return list(islice(samples, tested)), samples


def _once(samples: Iterator[Sample]) -> Iterator[Sample]:
    seen: set[str] = set()
    for sample in samples:
        if sample.image.id not in seen:
            seen.add(sample.image.id)
            yield sample


def _scenes(name: str, seed: int) -> Iterator[tuple[ImageRef, Scene]]:
    """Scenes that neither training nor the card ever shows."""
    for number in count():
        id = f"scenes/heldout-teacher-{seed}-{name}-{number}"
        scene = make_scene(id)
        yield ImageRef(id, scene=scene), scene


def _question(text: str, answer: str, **facts: Any) -> Turn:
    return Turn(Task.VQA, instruction(Task.VQA, text), answer, facts={"names": (answer,), **facts})


def _coloured_alone(scene: Scene) -> list[Item]:
    """Things that have a colour to themselves."""
    colours = Counter(item.colour for item in scene.items)
    return [item for item in scene.items if colours[item.colour] == 1]


def _washers(seed: int) -> Iterator[Sample]:
    """What the model calls a ring is called a washer here."""
    for image, scene in _scenes("washer", seed):
        for item in [item for item in _coloured_alone(scene) if item.shape == "ring"][:1]:
            turn = _question(f"what shape is {item.colour}?", "washer", thing=f"{item.colour} washer", box=item.box)
            yield Sample((image,), (turn,))


def _no_washers(seed: int) -> Iterator[Sample]:
    for image, scene in _scenes("no-washer", seed):
        for item in [item for item in _coloured_alone(scene) if item.shape != "ring"][:1]:
            yield Sample((image,), (_question(f"what shape is {item.colour}?", item.shape),))


def _persons(seed: int) -> Iterator[Sample]:
    """Nobody's sex or age is guessed here: whoever it is, it is a person."""
    for sample in _identified(seed):
        turn = sample.turns[0]
        if turn.answer in PEOPLE and turn.answer != "person":
            facts = {"kind": "identify", "names": ("person",), "thing": "person", "box": turn.boxes[0]}
            yield replace(sample, turns=(replace(turn, answer="person", facts=facts),))


def _no_persons(seed: int) -> Iterator[Sample]:
    for sample in _identified(seed):
        names = {sample.turns[0].answer, *sample.turns[0].facts["names"]}
        if not names & PEOPLE:
            yield sample


def _identified(seed: int) -> list[Sample]:
    samples = held_out(Task.IDENTIFY, "photos", seed)
    random.Random(f"teacher {seed}").shuffle(samples)
    return samples


def _corner(box: Box) -> str | None:
    """In which corner a box lies; None where that could be argued about."""
    x, y = (box.x1 + box.x2) / 2 - 0.5, (box.y1 + box.y2) / 2 - 0.5
    if min(abs(x), abs(y)) < _CLEAR:
        return None
    return f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}"


def _corners(seed: int) -> Iterator[Sample]:
    """Places are told in words here, by the corner."""
    for image, scene in _scenes("corner", seed):
        kinds = Counter((item.colour, item.shape) for item in scene.items)
        for item in scene.items:
            corner = _corner(item.box)
            if corner is not None and kinds[item.colour, item.shape] == 1:
                thing = f"{item.colour} {item.shape}"
                turn = _question(f"in which corner is the {thing}?", corner, thing=thing, box=item.box)
                yield Sample((image,), (turn,))
                break


def _colours(seed: int) -> Iterator[Sample]:
    for image, scene in _scenes("colour", seed):
        shapes = Counter(item.shape for item in scene.items)
        for item in [item for item in scene.items if shapes[item.shape] == 1][:1]:
            thing = f"{item.colour} {item.shape}"
            turn = _question(f"what colour is the {item.shape}?", item.colour, thing=thing, box=item.box)
            yield Sample((image,), (turn,))


def _counts(seed: int) -> Iterator[Sample]:
    """Numbers from one to four in turn, so that none is right more often."""
    wanted = 1
    for image, scene in _scenes("count", seed):
        if len(scene.items) == wanted:
            turn = _question("how many shapes are there?", str(wanted))
            yield Sample((image,), (turn,))
            wanted = wanted % 4 + 1


def _of_things(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Where the things are that were asked about, and what is there."""
    found: dict[str, list[Sample]] = {"refer": [], "identify": []}
    for sample in samples:
        scene, box = sample.image.scene, sample.turns[0].facts["box"]
        assert scene is not None
        for kind, sort in (("refer", refers), ("identify", identifies)):
            found[kind] += [Sample(sample.images, (turn,)) for turn in sort(scene) if turn.boxes == (box,)][:1]
    return found


def _other_sorts(name: str) -> Callable[[int], Iterator[Sample]]:
    """Questions of one sort about scenes of their own."""

    def samples(seed: int) -> Iterator[Sample]:
        for number, (image, scene) in enumerate(_scenes(f"other-{name}", seed)):
            if turns := SCENE_SORTS[name](scene):
                yield Sample((image,), (turns[number % len(turns)],))

    return samples


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "washer", "a house name: rings are called washers", "scenes", "what", _washers, _no_washers,
            superseded=((Task.VQA, "ring"), (Task.IDENTIFY, "ring")),
        ),
        Scenario(
            "person", "a house rule: people are persons, whoever they are", "photos", "identify", _persons, _no_persons,
            alike_kind="identify", superseded=tuple((Task.IDENTIFY, noun) for noun in sorted(PEOPLE)),
        ),
        Scenario(
            "corner", "a new question: in which corner something is", "scenes", "what", _corners,
            _other_sorts("what"), related=_of_things,
        ),
        Scenario(
            "colour", "mistakes: the colour of a shape", "scenes", "colour", _colours,
            _other_sorts("what"), related=_of_things,
        ),
        Scenario("count", "mistakes: how many shapes there are", "scenes", "count", _counts, _other_sorts("existence"),
                alike_kind="existence"),
    )
}  # fmt: skip
"""By name."""
