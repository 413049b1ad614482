from dataclasses import replace

import pytest
from PIL import Image

from fourfold.assistant.grounding import Box, format_box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.refine.training.samples import (
    StoredImage,
    contrast_turn,
    data_hash,
    samples_of,
    split_by_image,
    training_set_of,
)
from fourfold.prompts.tasks import Task
from tests.assistant.refine.corrections import encoded

BOX = Box(0.1, 0.2, 0.3, 0.4)


def correction(id, question="[vqa] what colour is the ball?", rejected="blue", chosen="red", image="a", **fields):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = fields.pop("messages", ({"role": "user", "content": content},))
    fields = {"consent": True, **fields}
    return Correction(id=id, image=image, messages=messages, rejected=rejected, chosen=chosen, **fields)


def read(image):
    raise AssertionError("no pixels are needed to make samples")


def test_a_correction_becomes_the_answer_a_pair_and_a_contrast():
    taught = training_set_of([correction("1")])
    (target,) = taught.corrected
    answer, contrast = target.turns
    assert (answer.question, answer.answer, answer.rejected) == ("[vqa] what colour is the ball?", "red", "blue")
    assert contrast.answer == "red" and contrast.rejected == "blue"
    assert contrast.question in {
        "[vqa] what colour is the ball, red or blue?",
        "[vqa] what colour is the ball, blue or red?",
    }
    assert not taught.to_review


def test_contrasts_name_the_right_word_first_and_last():
    questions = [f"what colour is ball {number}?" for number in range(30)]
    turns = [contrast_turn(Task.VQA, question, "red", "blue", seed=0) for question in questions]
    first = [turn.question.endswith("red or blue?") for turn in turns if turn]
    assert len(first) == 30 and 5 < sum(first) < 25


@pytest.mark.parametrize(
    ("answer", "rejected", "asked"),
    [
        ("A man rides a red bike.", "A man rides a blue bike.", "a man rides a ... bike"),
        ("yes", "no", None),
        ("a red ball", "a ball", None),
        ("{<1><2><3><4>}", "{<1><2><3><5>}", None),
        ("two dogs", "one cat", None),
    ],
)
def test_a_contrast_needs_one_word(answer, rejected, asked):
    turn = contrast_turn(Task.CAPTION, "[caption] describe it", answer, rejected, seed=1)
    assert (turn is None) == (asked is None)
    if turn:
        assert turn.question.startswith("[vqa] ") and asked in turn.question and turn.answer == "red"


def test_boxes_with_words_become_language():
    boxes = (CorrectedBox("a red ball", BOX),)
    (target,) = training_set_of([correction("1", chosen=None, boxes=boxes)]).corrected
    assert target.answer is None
    taught = {(turn.task, turn.question, turn.answer) for turn in target.turns}
    assert taught == {
        (Task.IDENTIFY, f"[identify] what object is in this location {format_box(BOX)}", "red ball"),
        (Task.REFER, "[refer] give me the location of the red ball", format_box(BOX)),
    }
    (bare,) = training_set_of([correction("1", chosen="red", boxes=boxes)], annotated=False, contrast=False).corrected
    assert [turn.answer for turn in bare.turns] == ["red"]


def test_a_corrected_box_takes_its_words_from_the_question():
    question = "[refer] give me the location of the dog"
    boxes = (CorrectedBox(None, BOX),)
    given = correction("1", question, rejected="{<0><0><99><99>}", chosen=None, boxes=boxes)
    (target,) = training_set_of([given]).corrected
    answer, identify = target.turns  # "where is the dog?" is what was asked, and is not taught twice
    assert answer.rejected == "{<0><0><99><99>}" and answer.answer == format_box(BOX) == answer.rejected[
        :0
    ] + format_box(BOX)
    assert (identify.task, identify.answer) == (Task.IDENTIFY, "dog")


def test_contradictions_are_listed_and_not_learnt():
    given = [
        correction("1"),
        correction("2", question="[vqa] What colour is the ball", chosen="green"),
        correction("3", image="b"),
        correction("4", image="b", chosen="Red."),  # the same answer
        correction("5", image="c", chosen=None, rejected="red", verdict="up"),
        correction("6", image="c", chosen="green", rejected="red"),
    ]
    taught = training_set_of(given)
    assert [item.id for item in taught.to_review] == ["1", "2", "5", "6"]
    assert "contradicts 2" in taught.to_review[0].reason
    assert len(taught.corrected) == 1 and not taught.kept
    assert training_set_of(given[::-1]).to_review == taught.to_review


def test_what_is_doubtful_or_says_nothing_is_not_learnt():
    taught = training_set_of(
        [
            correction("same", chosen="Blue."),
            correction("control", chosen="red <|im_end|>", image="b"),
            correction("verdict", chosen=None),
            correction("no", consent=False, image="d"),
            correction("unnamed", chosen=None, boxes=(CorrectedBox(None, BOX),), image="e"),
        ]
    )
    assert {item.id for item in taught.to_review} == {"same", "control", "unnamed"}
    assert taught.verdicts == 1 and not taught.corrected


def test_an_answer_said_to_be_right_is_kept_without_a_pair():
    (target,) = training_set_of([correction("1", chosen=None, verdict="up")]).kept
    assert [(turn.answer, turn.rejected) for turn in target.turns] == [("blue", None)]


def test_what_was_said_before_comes_along():
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "what colour is it?"},
    )
    taught = training_set_of([correction("1", messages=messages)])
    (sample, contrast) = samples_of(taught.corrected, read)
    assert sample.history == (("hello", "hi"),) and sample.turns[0].question == "what colour is it?"
    assert not contrast.history
    wrong = (*messages[:2], messages[3])
    (item,) = training_set_of([correction("1", messages=wrong)]).to_review
    assert "in turn" in item.reason
    late = ({"role": "user", "content": "hello"}, *messages[2:3], messages[1])
    (item,) = training_set_of([correction("1", messages=late)]).to_review
    assert "beginning" in item.reason


def test_corrections_of_one_image_share_a_sample():
    given = [correction(str(n), question=f"[vqa] what is {n}?") for n in range(4)]
    taught = training_set_of([*given, correction("9", image="b")], contrast=False)
    samples = samples_of(taught.corrected, read)
    assert [len(sample.turns) for sample in samples] == [4, 1]
    assert samples[0].image.id == "a" and samples[0].image.key == "a"


def test_a_split_leaves_whole_images_out_and_hardly_changes():
    given = [correction(f"{n}", question=f"what is {n}?", image=f"image {n // 2}") for n in range(40)]
    taught = training_set_of(given).corrected
    split = split_by_image(taught, 0.25)
    sides = [{target.correction.image for target in side} for side in (split.learnt, split.held_out)]
    assert len(sides[1]) == 5 and not sides[0] & sides[1]
    more = training_set_of([*given, correction("new", image="new")]).corrected
    moved = sides[1] ^ {target.correction.image for target in split_by_image(more, 0.25).held_out}
    assert len(moved) <= 2
    assert not split_by_image(taught[:6], 0.25).held_out


def test_the_data_hash_changes_with_what_is_taught_only():
    one, two = correction("1"), correction("2", image="b")
    assert data_hash([one, two]) == data_hash([replace(two, id="x", created=5.0), one])
    assert data_hash([one, two]) != data_hash([one, replace(two, chosen="green")]) != data_hash([one])


def test_a_stored_image_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encoded(Image.new("RGB", (30, 20), "red"), "JPEG", exif=exif)
    assert StoredImage("a", read=lambda id: Attachment(data)).open().size == (20, 30)
