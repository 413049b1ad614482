from dataclasses import replace

import numpy as np
import pytest

from fourfold.assistant.training.data.scene_tasks import SCENE_SORTS
from fourfold.assistant.training.data.scenes import SHAPES, SIZE, Item, Scene, make_scene


def test_a_seed_gives_the_same_scene_and_pixels():
    first, second, other = make_scene("a"), make_scene("a"), make_scene("b")
    assert first == second
    assert first.render().tobytes() == second.render().tobytes()
    assert first.render().tobytes() != other.render().tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_those_of_the_drawn_pixels(shape):
    item = Item(shape, "red", "medium", 120.3, 97.8, 40.0, 17.0)
    scene = Scene("x", (item,), "", None, "plain", ((90, 110, 130), (90, 110, 130)), 0)
    empty = replace(scene, items=())
    changed = np.abs(np.asarray(scene.render(), int) - np.asarray(empty.render(), int)).sum(-1) > 60
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    # Half a pixel of smoothing on either side.
    assert np.abs(drawn - np.array(item.box.to_pixels(SIZE, SIZE))).max() <= 1.5


def test_words_are_written_in_their_box():
    scene = next(scene for n in range(200) if (scene := make_scene(f"w{n}")).word)
    plain = replace(scene, word="", word_box=None)
    changed = np.abs(np.asarray(scene.render(), int) - np.asarray(plain.render(), int)).sum(-1) > 60
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    drawn = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(drawn - np.array(scene.word_box.to_pixels(SIZE, SIZE))).max() <= 4


def test_shapes_hardly_overlap():
    for number in range(100):
        boxes = [item.box for item in make_scene(f"o{number}").items]
        for i, one in enumerate(boxes):
            for other in boxes[i + 1 :]:
                assert one.iou(other) < 0.03


def test_answers_follow_from_the_scene():
    for number in range(60):
        scene = make_scene(f"q{number}")
        kinds = [f"{item.colour} {item.shape}" for item in scene.items]
        yes, no = SCENE_SORTS["existence"](scene)
        assert yes.facts["object"] in kinds and yes.answer == "yes"
        assert no.facts["object"] not in kinds and no.answer == "no"
        absent = SCENE_SORTS["absent"](scene)[0]
        assert absent.facts["label"] not in kinds and absent.answer == "none" and not absent.boxes
        for turn in SCENE_SORTS["count"](scene):
            wanted = turn.question.split("how many ")[1].split(" are there")[0]
            singular = wanted.removesuffix("es") if wanted == "crosses" else wanted.removesuffix("s")
            expected = sum(
                singular == "shape" or singular == item.shape or singular == f"{item.colour} shape"
                for item in scene.items
            )
            assert turn.answer == str(expected)
        for turn in SCENE_SORTS["relation"](scene):
            assert turn.answer in ("yes", "no")


def test_relations_have_both_answers_equally_often():
    answers = [turn.answer for n in range(80) for turn in SCENE_SORTS["relation"](make_scene(f"r{n}"))]
    assert len(answers) > 100
    assert answers.count("yes") == answers.count("no")
