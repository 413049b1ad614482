"""Answers of other people's models: boxes in their own ways, and none where nobody said what the numbers mean."""

import pytest

from fourfold.assistant.grounding import FAMILIES, Box, BoxFormat
from fourfold.assistant.images import Attachment
from fourfold.ui.state.turns import read_answer, writes_undeclared_boxes
from tests.ui.scripted import BALL, answer_to

DOG = Box(0.12, 0.3, 0.56, 0.8)


@pytest.fixture(scope="module")
def picture() -> Attachment:
    from PIL import Image

    return Attachment.from_image(Image.new("RGB", (640, 428)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_drawn_by_its_name_and_its_signs_are_not_shown(family, picture: Attachment) -> None:
    answer = read_answer(family.written, {"model": f"somebody/{family.known_by[0]}-7b"}, picture)
    [box] = answer.boxes
    where = ((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2)  # some point only
    assert where == pytest.approx(((DOG.x1 + DOG.x2) / 2, (DOG.y1 + DOG.y2) / 2), abs=0.02)
    assert not any(sign in answer.plain for sign in "<>{}[]|`")
    arriving = [
        read_answer(family.written[:end], {"model": family.known_by[0]}, picture, arriving=True).plain
        for end in range(len(family.written))
    ]
    assert not any("bbox" in words or "<|" in words for words in arriving)


def test_a_model_that_nobody_knows_is_not_guessed_but_asked_about(picture: Attachment) -> None:
    for question in ("in JSON", "in tokens"):
        said = answer_to(question, "x")
        assert writes_undeclared_boxes(said, "x")
        answer = read_answer(said, {"model": "x"}, picture)
        assert not answer.boxes and not any(sign in answer.plain for sign in "<>{}[]|`")
        declared = {"x": BoxFormat.THOUSAND}
        assert not writes_undeclared_boxes(said, "x", declared)
        [box] = read_answer(said, {"model": "an adapter", "adapts": "x"}, picture, declared).boxes
        assert box.iou(Box(*BALL)) > 0.98


@pytest.mark.parametrize("said", ["It shows [1, 2, 3, 4].", "a < b", '{"count": 3}', "see [docs](http://x.y)"])
def test_words_without_boxes_stay_as_they_are(said: str, picture: Attachment) -> None:
    assert read_answer(said, {"model": "x"}, picture).plain == said
