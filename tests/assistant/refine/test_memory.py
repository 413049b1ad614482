"""What comes back, and what does not."""

from pathlib import Path

import pytest

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.memory import CorrectionMemory, Recalled
from fourfold.assistant.refine.record import CorrectedBox
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "store")


QUESTION = "what colour is thing 0?"


def test_the_same_picture_is_known_again(store: CorrectionStore) -> None:
    jpeg = Attachment(encoded(picture(), "JPEG"))
    memory = CorrectionMemory(store)
    assert memory.recall(jpeg, QUESTION) is None
    added = store.add(correction(), jpeg)
    expected = Recalled(added.id, "[vqa] what colour is thing 0?", "blue")
    assert memory.recall(jpeg, QUESTION) == expected
    assert memory.recall(Attachment.from_image(jpeg.decode()), QUESTION) == expected  # saved as PNG
    assert memory.recall(jpeg.decode(), QUESTION) == expected
    assert memory.recall(jpeg, "what colour is thing 1?") is None
    assert memory.recall(Attachment(encoded(picture(1))), QUESTION) is None
    newer = store.add(correction(chosen="white"), jpeg)
    assert memory.recall(jpeg, QUESTION) == Recalled(newer.id, newer.question, "white")
    store.forget(newer.id)
    assert memory.recall(jpeg, QUESTION) == expected
    CorrectionStore(store.directory).forget(added.id)  # by another process, say
    assert memory.recall(jpeg, QUESTION) is None
    store.add(correction(), jpeg)
    with pytest.raises(UserError, match="not an image"):
        memory.recall(Attachment(b"nonsense"), QUESTION)
    # Nothing is decoded for a question that nobody corrected.
    assert memory.recall(Attachment(b"nonsense"), "what is it?") is None


def test_images_excluded_after_their_correction_are_no_longer_remembered(store: CorrectionStore) -> None:
    """A benchmark asked through the memory would otherwise be told the answers."""
    image, other = Attachment(encoded(picture(), "JPEG")), Attachment(encoded(picture(1)))
    kept = store.add(correction(), other)
    store.add(correction(), image)
    memory = CorrectionMemory(store)
    assert memory.recall(image, QUESTION) is not None
    CorrectionStore(store.directory).exclude([image.hashes], "okvqa val")
    assert memory.recall(image, QUESTION) is None
    assert memory.recall(image.decode(), QUESTION) is None
    found = memory.recall(other, QUESTION)
    assert found is not None and found.id == kept.id


def test_an_excluded_image_is_not_answered_from_one_that_shows_the_same(store: CorrectionStore) -> None:
    turned = picture(3).getexif()
    turned[0x0112] = 6  # shown turned by 90 degrees: known by its pixels as stored, and as shown
    photo = Attachment(encoded(picture(3), exif=turned))
    stored = Attachment(encoded(picture(3)))
    upright = Attachment.from_image(photo.decode())
    store.add(correction(), stored)
    memory = CorrectionMemory(store)
    assert memory.recall(photo, QUESTION) is not None
    store.exclude([upright.hashes], "gqa")  # not the stored image's, but the asked one's
    assert memory.recall(stored, QUESTION) is not None
    assert memory.recall(photo, QUESTION) is None


def test_boxes_come_back_in_the_answers_own_format(store: CorrectionStore) -> None:
    where = "[refer] where is the dog?"
    asked = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": where}]},)
    boxes = (CorrectedBox(None, Box(0.1, 0.2, 0.3, 0.4)),)
    image = Attachment(encoded(picture()))
    store.add(correction(messages=asked, rejected="{<1><2><3><4>}", chosen=None, boxes=boxes), image)
    found = CorrectionMemory(store).recall(image, where)
    assert found is not None and found.answer == "{<10><20><30><40>}"


def test_what_is_no_answer_is_not_remembered(store: CorrectionStore) -> None:
    image = Attachment(encoded(picture()))
    store.add(correction(remember=False), image)
    store.add(correction(verdict="up", chosen=None), image)
    store.add(correction(chosen=None), image)
    store.add(correction(chosen="bl<|im_end|>ue"), image)
    store.add(correction(chosen="blue " * 200), image)
    talk = (*correction(1).messages, {"role": "assistant", "content": "x"}, {"role": "user", "content": "its colour?"})
    store.add(correction(messages=talk), image)
    assert CorrectionMemory(store).recall(image, QUESTION) is None
    assert CorrectionMemory(store).recall(image, "its colour?") is None


def test_consent_to_train_is_not_needed_to_remember(store: CorrectionStore) -> None:
    image = Attachment(encoded(picture()))
    store.add(correction(consent=False), image)
    found = CorrectionMemory(store).recall(image, QUESTION)
    assert found is not None and found.answer == "blue"
    assert store.list(consented=True) == []


def test_what_was_corrected_in_the_middle_of_a_conversation_comes_back_where_it_stands_alone(
    store: CorrectionStore,
) -> None:
    image = Attachment(encoded(picture()))
    talk = (*correction(1).messages, {"role": "assistant", "content": "x"}, {"role": "user", "content": QUESTION})
    store.add(correction(messages=talk), image)
    found = CorrectionMemory(store).recall(image, QUESTION)
    assert found is not None and found.answer == "blue"


def test_words_that_the_form_has_no_place_for_come_back_with_the_box(store: CorrectionStore) -> None:
    where = "[refer] where is the bottle?"
    asked = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": where}]},)
    boxes = (CorrectedBox("the bottle", Box(0.1, 0.2, 0.3, 0.4)),)
    image = Attachment(encoded(picture()))
    for chosen, answer in (
        ("the green bottle", "<p>the green bottle</p> {<10><20><30><40>}"),
        ("It stands on the left side.", "It stands on the left side. <p>the bottle</p> {<10><20><30><40>}"),
        ("see <|im_end|>", None),
    ):
        kept = store.add(correction(messages=asked, rejected="{<1><2><3><4>}", chosen=chosen, boxes=boxes), image)
        found = CorrectionMemory(store).recall(image, where)
        assert (found.answer if found else None) == answer
        store.forget(kept.id)


def test_words_and_boxes_that_do_not_go_together_come_back_beside_each_other(store: CorrectionStore) -> None:
    image = Attachment(encoded(picture()))
    boxes = (CorrectedBox("the mug", Box(0.1, 0.2, 0.3, 0.4)),)
    where = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is the cup?"}]},)
    store.add(
        correction(messages=where, rejected="<p>a cup</p> {<1><2><3><4>}", chosen="On the table.", boxes=boxes), image
    )
    found = CorrectionMemory(store).recall(image, "where is the cup?")
    assert found is not None and found.answer == "On the table. <p>the mug</p> {<10><20><30><40>}"
