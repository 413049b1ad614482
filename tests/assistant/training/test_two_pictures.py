import random
import re
from collections import Counter

import pytest

from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.data.two_pictures import scene_pair

PAIRS = [(make_scene(f"one {n}"), make_scene(f"two {n}")) for n in range(150)]


def shows(scene, kind: str) -> bool:
    return any(kind in (item.shape, f"{item.colour} {item.shape}") for item in scene.items)


def asked(kind: str):
    for number, scenes in enumerate(PAIRS):
        for turn in scene_pair(scenes, 8, random.Random(number)):
            if turn.facts["kind"] == kind:
                yield scenes, turn


def test_which_picture_shows_it() -> None:
    answers = Counter()
    for scenes, turn in asked("which picture"):
        there = tuple(shows(scene, turn.facts["object"]) for scene in scenes)
        named = {"the first": (True, False), "the second": (False, True), "both": (True, True)}
        assert there == named.get(turn.answer, (False, False)), turn
        answers[turn.answer] += 1
    assert set(answers) == {"the first", "the second", "both", "neither"}
    assert max(answers.values()) < 3 * min(answers["the first"], answers["the second"], answers["neither"])


def test_whether_it_is_in_the_named_one() -> None:
    answers = Counter()
    for scenes, turn in asked("existence"):
        place = "second" in turn.question
        assert shows(scenes[place], turn.facts["object"]) == (turn.answer == "yes"), turn
        # Whether the other one shows it must not tell.
        answers[turn.answer, shows(scenes[not place], turn.facts["object"])] += 1
    assert 0.4 < sum(n for (answer, _), n in answers.items() if answer == "yes") / answers.total() < 0.6


def test_counts_colours_and_more() -> None:
    for scenes, turn in asked("count"):
        shape = turn.facts["object"]
        assert int(turn.answer) == sum(item.shape == shape for item in scenes["second" in turn.question].items)
    for scenes, turn in asked("colour"):
        found = [item.colour for item in scenes["second" in turn.question].items if item.shape == turn.facts["object"]]
        assert found == [turn.answer]
    for scenes, turn in asked("more"):
        first, second = (sum(item.shape == turn.facts["object"] for item in scene.items) for scene in scenes)
        assert (turn.answer == "the second") == (second > first if "more" in turn.question else second < first)


def test_a_difference_is_one() -> None:
    seen = set()
    for scenes, turn in asked("difference"):
        if found := re.fullmatch(r"The (\w+) is (\w+) in the first and (\w+) in the second\.", turn.answer):
            shape, *colours = found.groups()
            assert colours[0] != colours[1]
            for scene, colour in zip(scenes, colours, strict=True):
                assert [item.colour for item in scene.items if item.shape == shape] == [colour]
            seen.add("colour")
        elif found := re.fullmatch(r"Only the (first|second) has (?:an? )?(\w+)\.", turn.answer):
            place = found[1] == "second"
            shape = next(item.shape for item in scenes[place].items if found[2] in (item.shape, plural(item.shape)))
            assert not shows(scenes[not place], shape)
            seen.add("only")
        else:
            found = re.fullmatch(r"The first has (\w+) (\w+), the second (\w+) (\w+)\.", turn.answer)
            assert found is not None, turn.answer
            words = ("zero", "one", "two", "three", "four", "five", "six")
            for scene, number, shape in zip(scenes, found.groups()[::2], found.groups()[1::2], strict=True):
                there = [item for item in scene.items if shape in (item.shape, plural(item.shape))]
                assert len(there) == words.index(number)
            seen.add("number")
    assert seen == {"colour", "only", "number"}


def plural(shape: str) -> str:
    return {"cross": "crosses"}.get(shape, f"{shape}s")


def test_no_boxes_are_asked_for_and_the_same_is_not_asked_twice() -> None:
    for number, scenes in enumerate(PAIRS):
        turns = scene_pair(scenes, 8, random.Random(number))
        assert turns and len({turn.question for turn in turns}) == len(turns) <= 8
        assert not any("{<" in turn.question + turn.answer or turn.boxes for turn in turns)


@pytest.fixture(scope="module")
def photo_pairs(shared_data):
    config = MixtureConfig(
        photos={"flickr8k_entities": 1.0, "coco": 1.0},
        photo_tasks={"existence": 1},
        views=4,
        turns=8,
        two_pictures=0.3,
        limit=150,
    )
    mixture = Mixture(config)
    return mixture, [mixture.draw(entry, 0) for entry in mixture.epoch(0) if entry[0] == "two pictures"]


def test_photos_come_in_pairs_of_which_the_annotations_tell(photo_pairs) -> None:
    mixture, samples = photo_pairs
    kept = {image.key for image in mixture.images()}
    photos = {photo.id: photo for photos in mixture.photos.values() for photo in photos}
    kinds = Counter()
    for sample in samples:
        assert len(sample.images) == 2 and {image.key for image in sample.images} <= kept
        nouns = [{n for thing in photos[image.id].things for n in thing.nouns} for image in sample.images]
        for turn in sample.turns:
            kinds[turn.facts["kind"]] += 1
            thing = turn.facts["object"]
            if turn.facts["kind"] == "which picture":
                named = {"the first": [True, False], "the second": [False, True], "both": [True, True]}
                assert [thing in there for there in nouns] == named.get(turn.answer, [False, False])
            elif turn.facts["kind"] == "existence":
                assert (thing in nouns["second" in turn.question]) == (turn.answer == "yes")
    assert min(kinds["which picture"], kinds["existence"]) > 50 and kinds["caption"] > 10
