"""What a library knows of pictures that it was not learnt from."""

import random
from dataclasses import replace

import numpy as np
import pytest

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts import (
    Example,
    ReadoutLearner,
    ReadoutLibrary,
    concept_readout,
    learn_library,
    normalised,
)
from fourfold.prompts.errors import UserError
from tests.assistant.readouts.world import COLOURS, GRID, NOUNS, WIDTH, World, draw_box, picture

LEFT, RIGHT = Box(0, 1 / GRID, 3 / GRID, 4 / GRID), Box(5 / GRID, 2 / GRID, 1, 5 / GRID)


@pytest.fixture(scope="module")
def others() -> World:
    """Pictures with one thing each that the library has not seen."""
    return World(60, seed=7, most=1)


def test_it_points_at_things_in_new_pictures_and_knows_how_sure_it_is(library: ReadoutLibrary, others: World) -> None:
    overlaps, chances, hits = [], [], []
    for example in others.examples:
        [thing] = example.things
        finding = library.find(others.features[example.key], f"the {thing.nouns[0]}")
        assert finding is not None and finding.noun == thing.nouns[0] and finding.source == "read-out"
        [box], (x, y) = finding.boxes, finding.point
        overlaps.append(box.iou(thing.boxes[0]))
        chances.append(finding.confidence[0])
        hits.append(thing.boxes[0].x1 <= x <= thing.boxes[0].x2 and thing.boxes[0].y1 <= y <= thing.boxes[0].y2)
    right = np.mean(np.array(overlaps) >= 0.5)
    assert right > 0.8 and np.mean(hits) > 0.9
    assert abs(np.mean(chances) - right) < 0.2


def test_presence_tells_what_is_there_from_what_is_not(library: ReadoutLibrary, others: World) -> None:
    there, absent = [], []
    for example in others.examples:
        for noun in NOUNS:
            of = there if noun in example.boxes else absent
            of.append(library.presence(others.features[example.key], noun))
    assert np.mean(np.array(there) >= 0.5) > 0.9 and np.mean(np.array(absent) < 0.5) > 0.9
    name, chance = library.describe(others.features[others.examples[0].key], 1)[0]
    assert name == others.examples[0].things[0].nouns[0] and chance > 0.5


def test_scores_of_a_noun_are_in_standard_deviations_over_all_patches(library: ReadoutLibrary, world: World) -> None:
    scores = np.stack([library.score_map(world.features[e.key], "car") for e in world.examples])
    assert scores.mean() == pytest.approx(0, abs=1e-2) and scores.std() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_has_its_colour_and_not_its_neighbours(library: ReadoutLibrary, colour: str) -> None:
    other = COLOURS[1 - COLOURS.index(colour)]
    right = 0
    for seed in range(10):
        features = picture([("ball", colour, LEFT), ("dog", other, RIGHT)], seed=seed)
        found = library.colours(features, "the ball")
        assert {name for name, _ in found} == set(COLOURS)
        assert sum(chance for _, chance in found) == pytest.approx(1)
        assert found[0][1] >= found[1][1]
        right += found[0][0] == colour
    assert right >= 9
    assert library.colours(features, "the zebra") == []


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_chooses_among_things_of_one_noun(library: ReadoutLibrary, colour: str) -> None:
    other = COLOURS[1 - COLOURS.index(colour)]
    right = 0
    for seed in range(10):
        features = picture([("ball", colour, LEFT), ("ball", other, RIGHT)], seed=seed)
        finding = library.find(features, f"the {colour} ball")
        assert finding is not None
        right += finding.boxes[0].iou(LEFT) > finding.boxes[0].iou(RIGHT)
    assert right >= 9


@pytest.mark.parametrize(
    ("phrase", "meant"),
    [
        ("dog on the left", LEFT),
        ("the dog on the right side", RIGHT),
        ("the leftmost dog", LEFT),
        ("dog next to the ball", RIGHT),
        ("dog to the left of the ball", LEFT),
    ],
)
def test_sides_and_neighbours_choose_among_things_of_one_noun(library: ReadoutLibrary, phrase: str, meant: Box) -> None:
    ball = Box(4 / GRID, 6 / GRID, 6 / GRID, 1)
    features = picture([("dog", "", LEFT), ("dog", "", RIGHT), ("ball", "", ball)], seed=5)
    finding = library.find(features, phrase)
    assert finding is not None and len(finding.boxes) == 1
    assert finding.boxes[0].iou(meant) > 0.5


def test_several_things_have_a_box_each_the_surest_first(library: ReadoutLibrary) -> None:
    features = picture([("tree", "", LEFT), ("tree", "", RIGHT)], seed=3)
    finding = library.find(features, "trees", several=True)
    assert finding is not None and len(finding.boxes) == 2
    assert list(finding.confidence) == sorted(finding.confidence, reverse=True)
    assert max(box.iou(LEFT) for box in finding.boxes) > 0.5 and max(box.iou(RIGHT) for box in finding.boxes) > 0.5


def test_an_unknown_noun_is_not_found(library: ReadoutLibrary, others: World) -> None:
    features = next(iter(others.features.values()))
    for phrase in ("the zebra", "", "red", "x" * 10_000, "left"):
        assert library.find(features, phrase) is None
    with pytest.raises(UserError, match="no read-out of 'zebra'"):
        library.score_map(features, "zebra")


def test_features_of_another_tower_are_refused(library: ReadoutLibrary) -> None:
    with pytest.raises(UserError, match="another image tower"):
        library.find(np.zeros((4, 4, WIDTH + 1), np.float32), "dog")


def _shown(noun_directions: np.ndarray, boxes: list[Box], seed: int) -> np.ndarray:
    """A picture with a thing that no library knows."""
    drawn = random.Random(seed)
    features = np.random.default_rng(seed).normal(size=(GRID, GRID, WIDTH)).astype(np.float32)
    other = draw_box(drawn)
    while any(other.iou(box) for box in boxes):
        other = draw_box(drawn)
    for box, towards in [*((box, noun_directions) for box in boxes), (other, np.ones(WIDTH, np.float32))]:
        x1, y1, x2, y2 = (round(side * GRID) for side in box.as_tuple())
        features[y1:y2, x1:x2] += 2 * towards
    return normalised(features)


REX = np.random.default_rng(99).normal(size=WIDTH).astype(np.float32)


def test_a_thing_shown_once_is_found_again_and_forgotten_without_trace(library: ReadoutLibrary) -> None:
    rex = concept_readout("Rex", [(_shown(REX, [LEFT], 1), [LEFT], True)], library)
    taught = library.with_concepts([rex])
    assert taught.concepts == ("Rex",) and library.concepts == ()
    for phrase in ("Rex", "where rex sits", "Rex on the right"):
        finding = taught.find(_shown(REX, [RIGHT], 2), phrase)
        assert finding is not None and finding.source == "shown once" and finding.noun == "Rex"
        assert finding.boxes[0].iou(RIGHT) > 0.5
    there = np.mean([taught.presence(_shown(REX, [RIGHT], seed), "rex") for seed in range(3, 9)])
    absent = np.mean([taught.presence(_shown(REX, [], seed), "rex") for seed in range(3, 9)])
    assert there > 0.7 and there > absent + 0.2
    assert library.find(_shown(REX, [RIGHT], 2), "Rex") is None


def test_what_it_is_not_counts_against_a_concept(library: ReadoutLibrary) -> None:
    like = REX + 0.8 * np.random.default_rng(5).normal(size=WIDTH).astype(np.float32)
    picture_of_it, picture_of_like = _shown(REX, [LEFT], 1), _shown(like, [RIGHT], 2)
    once = concept_readout("Rex", [(picture_of_it, [LEFT], True)], library)
    for boxes in ([RIGHT], []):
        told = concept_readout("Rex", [(picture_of_it, [LEFT], True), (picture_of_like, boxes, False)], library)
        new_like, new_rex = _shown(like, [LEFT], 8), _shown(REX, [LEFT], 9)

        def margin(readout: object) -> float:
            weights = readout.weights  # type: ignore[attr-defined]
            return float((new_rex @ weights)[1:4, :3].mean() - (new_like @ weights)[1:4, :3].mean())  # noqa: B023

        assert margin(told) > margin(once)


def test_a_concept_with_the_name_of_a_noun_adds_to_it(library: ReadoutLibrary, others: World) -> None:
    """One odd box does not undo what hundreds taught."""
    odd = concept_readout("dog", [(_shown(REX, [LEFT], 1), [LEFT], True)], library)
    [dog] = [readout for readout in library.readouts if readout.name == "dog"]
    assert float(odd.weights @ dog.weights) / float(np.linalg.norm(odd.weights) * np.linalg.norm(dog.weights)) > 0.7


@pytest.mark.parametrize("boxes", [[], [Box(0.5, 0.5, 0.5, 0.5)]])
def test_a_concept_needs_a_box_with_an_area(library: ReadoutLibrary, boxes: list[Box]) -> None:
    with pytest.raises(UserError, match="at least one box with an area"):
        concept_readout("Rex", [(_shown(REX, [], 1), boxes, True)], library)


def test_a_readout_is_the_closed_form_of_ridge_regression(world: World) -> None:
    """Up to scale, the discriminant is what ridge regression gives to patches of boxes against all patches."""
    learner = ReadoutLearner(WIDTH)
    rows, targets = [], []
    for example in world.examples[:60]:
        kept = replace(example, things=example.things[:1])
        features = world.features[example.key]
        learner.add(features, kept)
        rows.append(features.reshape(-1, WIDTH))
        target = np.zeros((GRID, GRID))
        if kept.things[0].nouns == ("dog",):
            x1, y1, x2, y2 = (round(side * GRID) for side in kept.things[0].boxes[0].as_tuple())
            target[y1:y2, x1:x2] = 1 / ((x2 - x1) * (y2 - y1))  # every box counts once
        targets.append(target.ravel())
    [readout] = learner.readouts("noun", "photos", ["dog"])
    assert readout is not None
    inputs, target = np.concatenate(rows).astype(float), np.concatenate(targets)
    centred = inputs - inputs.mean(0)
    penalty = 0.1 * np.trace(centred.T @ centred) / WIDTH
    expected = np.linalg.lstsq(
        np.vstack([centred, np.sqrt(penalty) * np.eye(WIDTH)]),
        np.concatenate([target - target.mean(), np.zeros(WIDTH)]),
        rcond=None,
    )[0]
    cosine = expected @ readout.weights / np.linalg.norm(expected) / np.linalg.norm(readout.weights)
    assert cosine == pytest.approx(1, abs=1e-4)


def test_too_few_boxes_are_refused(world: World) -> None:
    with pytest.raises(UserError, match="no noun has 5 boxes in the 2 pictures"):
        learn_library(world.examples[:2], world.features.__getitem__, "tower")
    with pytest.raises(UserError, match="too few to learn boxes from"):
        learn_library(world.examples[:40], world.features.__getitem__, "tower")


def test_a_small_library_takes_boxes_and_chances_from_another(library: ReadoutLibrary, world: World) -> None:
    small = learn_library(world.examples[:40], world.features.__getitem__, "tower", base=library)
    assert small.head is library.head and small.provenance["pictures"] == {"photos": 40}
    example = world.examples[50]
    assert small.find(world.features[example.key], example.things[0].nouns[0]) is not None


def test_rare_nouns_stand_for_the_noun_that_names_the_same_things(world: World) -> None:
    renamed = []
    for number, example in enumerate(world.examples[:60]):
        things = tuple(
            replace(thing, nouns=("dog", "mutt")) if number < 12 and thing.nouns == ("dog",) else thing
            for thing in example.things
        )
        renamed.append(Example(example.key, things, vocabulary=example.vocabulary))
    learner = ReadoutLearner(WIDTH)
    for example in renamed:
        learner.add(world.features[example.key], example)
    assert learner.synonyms(["dog", "ball"])["mutt"] == "dog"
