"""What comes back, and what does not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.encoder import ImageEncoder
from fourfold.assistant.refine.memory import Memory, Recalled, reminded
from fourfold.assistant.refine.questions import same_question
from fourfold.assistant.refine.record import CorrectedBox
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What colour is the car?", "[vqa] what is the color of the car"),
        ("how many dogs are there?", "count the dogs"),
        ("is there a dog?", "can you see any dogs in the picture?"),
        ("what is on the left side of the bed?", "what is at the left side of the bed"),
        ("[refer] give me the location of the dog", "[refer] where is the dog?"),
        ("[caption] describe this image briefly", "[caption] what does this picture show?"),
        ("what is this?", "what's this"),
        ("Wie viele Bären sind das?", "wie viele bären sind das"),
    ],
)
def test_questions_that_ask_the_same(one: str, other: str) -> None:
    assert same_question(one, other)
    assert same_question(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what colour is the car?", "what colour is the house?"),
        ("what colour is the car?", "how many cars are there?"),
        ("is there a dog?", "is there no dog?"),
        ("is there a dog?", "[refer] where is the dog?"),
        ("what is left of the table?", "what is right of the table?"),
        ("is the man left of the woman?", "is the woman left of the man?"),
        ("what is on the table?", "what is under the table?"),
        ("what is on the box?", "what is in the box?"),
        ("who is this?", "what is this?"),
        ("[refer] where is the dog?", "[refer] where is the big dog?"),
        ("[identify] what is at {<1><2><3><4>}?", "[identify] what is at {<1><2><3><5>}?"),
        ("[caption] describe this image briefly", "[grounding] please describe this image in details"),
    ],
)
def test_questions_that_ask_something_else(one: str, other: str) -> None:
    assert not same_question(one, other)


class Fake:
    """Vectors by the mean colour, so that a test says how alike images are."""

    name = "fake"
    calls = 0

    def vectors(self, images: list[Image.Image]) -> np.ndarray:
        self.calls += 1
        means = np.array([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in images])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "store")


QUESTION = "what colour is thing 0?"


def test_the_same_picture_is_known_again(store: CorrectionStore) -> None:
    jpeg = encoded(picture(), "JPEG")
    memory = Memory(store)
    assert memory.recall(jpeg, QUESTION) is None
    added = store.add(correction(), jpeg)
    expected = Recalled(added.id, "[vqa] what colour is thing 0?", "blue", 1.0)
    assert memory.recall(jpeg, QUESTION) == expected
    with Image.open(io.BytesIO(jpeg)) as image:
        assert memory.recall(encoded(image), QUESTION) == expected  # saved as PNG
        assert memory.recall(image.convert("RGB"), QUESTION) == expected
    assert memory.recall(jpeg, "what colour is thing 1?") is None
    assert memory.recall(encoded(picture(1)), QUESTION) is None
    newer = store.add(correction(chosen="white"), jpeg)
    assert memory.recall(jpeg, QUESTION).id == newer.id
    store.forget(newer.id)
    assert memory.recall(jpeg, QUESTION) == expected
    CorrectionStore(store.directory).forget(added.id)  # by another process, say
    assert memory.recall(jpeg, QUESTION) is None
    with pytest.raises(UserError, match="not an image"):
        store.add(correction(), jpeg)
        memory.recall(b"nonsense", QUESTION)


def test_what_is_no_answer_is_not_remembered(store: CorrectionStore) -> None:
    data = encoded(picture())
    store.add(correction(consent=False), data)
    store.add(correction(verdict="up", chosen=None), data)
    store.add(correction(chosen=None), data)
    store.add(correction(chosen="bl<|im_end|>ue"), data)
    store.add(correction(chosen="blue " * 200), data)
    talk = (*correction(1).messages, {"role": "assistant", "content": "x"}, {"role": "user", "content": QUESTION})
    store.add(correction(messages=talk), data)
    assert Memory(store).recall(data, QUESTION) is None


def test_similar_images_share_words_but_not_boxes(store: CorrectionStore) -> None:
    def plain(colour: tuple[int, int, int], side: int = 8) -> bytes:
        return encoded(Image.new("RGB", (side, side), colour))

    encoder = Fake()
    memory = Memory(store, encoder, alike=0.999)  # type: ignore[arg-type]
    red = store.add(correction(), plain((200, 10, 10)))
    store.add(correction(chosen="x"), plain((10, 10, 200)))
    assert memory.recall(plain((200, 10, 10), 9), "how many?") is None
    assert encoder.calls == 0  # the tower is not asked about other questions
    recalled = memory.recall(plain((200, 10, 12)), QUESTION)
    assert recalled is not None
    assert (recalled.id, recalled.answer) == (red.id, "blue")
    assert 0.999 <= recalled.alike < 1
    assert memory.recall(plain((200, 80, 10)), QUESTION) is None
    assert Memory(store).recall(plain((200, 10, 12)), QUESTION) is None  # without an encoder
    calls = encoder.calls
    again = Memory(store, encoder, alike=0.999)  # type: ignore[arg-type]
    assert again.recall(plain((200, 10, 12)), QUESTION) == recalled
    assert encoder.calls == calls + 1  # stored images' vectors are kept
    store.forget(red.id)
    assert memory.recall(plain((200, 10, 12)), QUESTION) is None
    assert len(store.vectors("fake")) == 1
    store.keep_vector(red.image, "fake", b"late")
    assert len(store.vectors("fake")) == 1
    where = "[refer] where is the dog?"
    asked = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": where}]},)
    boxes = (CorrectedBox(None, Box(0.1, 0.2, 0.3, 0.4)),)
    data = plain((10, 200, 10))
    store.add(correction(messages=asked, rejected="{<1><2><3><4>}", chosen=None, boxes=boxes), data)
    same = memory.recall(data, where)
    assert same is not None
    assert same.answer == "{<10><20><30><40>}"
    assert memory.recall(plain((10, 200, 12)), where) is None


def test_the_reminder_stands_before_the_question() -> None:
    recalled = Recalled("id", "what is it?", "a bear", 1.0)
    image, question = {"type": "image", "image": "x"}, {"type": "text", "text": "what is this?"}
    system = {"role": "system", "content": "be brief"}
    asked = {"role": "user", "content": [image, question]}
    remembered = [{"role": "user", "content": [image, {"type": "text", "text": "what is it?"}]}]
    answer = {"role": "assistant", "content": "a bear"}
    assert reminded([system, asked], recalled) == [
        system, *remembered, answer, {"role": "user", "content": [question]}
    ]  # fmt: skip
    follow = {"role": "user", "content": "what is this?"}
    assert reminded([asked, answer, follow], recalled) == [
        asked, answer, {"role": "user", "content": "what is it?"}, answer, follow
    ]  # fmt: skip
    assert asked == {"role": "user", "content": [image, question]}  # the caller's own stays as it was


def test_the_encoder_is_the_models_own_tower(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoProcessor

    from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

    images = [picture(1), picture(2, 90)]
    vectors = ImageEncoder(tiny_checkpoint).vectors(images)
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    expected = torch.nn.functional.normalize(model.model.encode_images(pixels).mean(1), dim=-1)
    assert np.allclose(vectors, expected.detach().numpy(), atol=1e-6)
    assert ImageEncoder(tiny_checkpoint).name == ImageEncoder(tiny_checkpoint).name != ""
    with pytest.raises(UserError, match="image tower"):
        ImageEncoder(tmp_path).vectors(images)
