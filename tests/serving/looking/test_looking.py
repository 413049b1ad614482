"""What the eyes see is said in place of what the model guesses, in its form and with its accounting."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.tools.results import Count
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, instruction
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.looking import Claim, Looking
from fourfold.serving.looking.presence import combined, log_odds, yes_probability
from tests.serving.looking.scripted import CAT, DOG, ScriptedLibrary, finding

PICTURE = Image.effect_noise((80, 60), 90).convert("RGB")
THINGS = {
    "dog": finding("dog", (DOG, 0.8), (CAT, 0.4)),
    "cat": finding("cat", (CAT, 0.05), presence=0.6),
    "horse": finding("horse", (DOG, 0.5), presence=0.02),
}


@pytest.fixture(scope="module")
def library() -> ScriptedLibrary:
    return ScriptedLibrary(THINGS)


@pytest.fixture(scope="module")
def seeing(tiny_engine: Engine, library: ScriptedLibrary) -> Looking:
    return Looking(tiny_engine, library)  # type: ignore[arg-type]


def ask(question: str, image: Image.Image | None = PICTURE, **sampling: Any) -> Request:
    parts = [{"type": "image", "image": image}] if image is not None else []
    content = [*parts, {"type": "text", "text": question}]
    return Request([{"role": "user", "content": content}], Sampling(**{"max_tokens": 200, **sampling}))


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("[refer] where is the dog?", format_box(DOG)),
        ("where is the brown dog?", f"Here is the <p>brown dog</p> {format_box(DOG)}."),
        ("where are the dogs?", f"Here are the <p>dogs</p> {format_box(DOG)}<delim>{format_box(CAT)}."),
        ("[detection] dog", f"<p>dog</p> {format_box(DOG)}<delim>{format_box(CAT)}"),
    ],
)
def test_it_points_in_the_written_form(seeing: Looking, question: str, text: str) -> None:
    completion, claims = seeing.answer(ask(question))
    assert completion.text == text
    assert completion.finish_reason == "stop"
    assert [claim.box for claim in claims] == [DOG, CAT][: len(claims)]
    assert [claim.confidence for claim in claims] == [0.8, 0.4][: len(claims)]
    assert {claim.source for claim in claims} == {"read-out"}
    grounded = parse(completion.text)
    assert grounded.boxes == tuple(claim.box for claim in claims) and not grounded.malformed


def test_it_says_that_it_cannot_point(seeing: Looking) -> None:
    completion, claims = seeing.answer(ask("where is the cat?"))
    assert completion.text == "I cannot point at the cat."
    assert claims == (Claim("cat", None, 0.05, "read-out"),)


def test_it_says_that_it_sees_none(seeing: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "score", lambda *_: [-3.0, -0.1])
    completion, [claim] = seeing.answer(ask("point to the horse"))
    assert completion.text == "I see no horse."
    assert (claim.phrase, claim.box, claim.source) == ("no horse", None, "read-out + model")
    assert claim.confidence == pytest.approx(1 - combined(0.02, yes_probability([-3.0, -0.1])))
    assert seeing.answer(ask("[detection] horse"))[0].text == "none"
    monkeypatch.setattr(Engine, "score", lambda *_: [-0.001, -9.0])  # the model is sure of it
    assert seeing.answer(ask("point to the horse"))[0].text == f"Here is the <p>horse</p> {format_box(DOG)}."


def test_presence_is_of_both(seeing: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def score(_: Engine, request: Request, candidates: Sequence[str]) -> list[float]:
        asked.append(request)
        assert list(candidates) == ["yes", "no"]
        return [-1.0, -0.5]

    monkeypatch.setattr(Engine, "score", score)
    completion, [claim] = seeing.answer(ask("[vqa] is there a dog in the image?"))
    assert completion.text == "yes"
    assert (claim.phrase, claim.source) == ("dog", "read-out + model")
    assert claim.confidence == pytest.approx(combined(0.9, yes_probability([-1.0, -0.5])))
    assert asked[0].messages[0]["content"][1]["text"] == "[vqa] is there a dog in the image?"
    completion, [claim] = seeing.answer(ask("is there a horse?"))
    assert (completion.text, claim.phrase) == ("No, I see no horse.", "no horse")
    assert seeing.look(ask("is there a dog in the water?")).said is None


@pytest.mark.parametrize(
    "question",
    [
        "what colour is the dog?",
        "[refer] where is the zebra?",
        "[vqa] is there a zebra in the image?",
        "how many dogs are there?",
        "who is this?",
        "where is " + "x" * 10_000,
    ],
)
def test_what_the_eyes_do_not_know_the_model_answers(seeing: Looking, tiny_engine: Engine, question: str) -> None:
    request = ask(question[:800], max_tokens=8)
    completion, claims = seeing.answer(request)
    [plain] = tiny_engine.generate([request])
    assert completion.text == plain.text
    assert all(claim.source == "model" and claim.confidence is None for claim in claims)


def test_the_models_own_boxes_say_whose_they_are(seeing: Looking) -> None:
    looked = seeing.look(ask("[refer] where is the zebra?"))
    assert looked.claims("{<10><20><50><60>}") == (Claim("zebra", DOG, None, "model"),)
    assert looked.claims("<p>a zebra</p> {<10><20><50><60>}") == (Claim("a zebra", DOG, None, "model"),)


def test_the_models_own_number_and_yes_or_no_say_whose_they_are(seeing: Looking) -> None:
    counted = seeing.look(ask("how many zebras are there?"))
    assert counted.claims("There are two.") == (Claim("2 zebras", None, None, "model"),)
    assert counted.claims("0") == (Claim("no zebras", None, None, "model"),)
    assert counted.claims("many") == ()
    asked = seeing.look(ask("[vqa] is there a zebra in the image?"))
    assert asked.claims("no") == (Claim("no zebra", None, None, "model"),)
    assert asked.claims("Yes.") == (Claim("zebra", None, None, "model"),)


def test_nothing_is_looked_at_without_a_picture_or_with_several(seeing: Looking) -> None:
    question = "[refer] where is the dog?"
    assert seeing.look(ask(question, None)).said is None
    two = ask(question)
    two.messages[0]["content"].insert(0, {"type": "image", "image": PICTURE})
    assert seeing.look(two).said is None
    later = ask(question, None)
    shown = [{"role": "user", "content": [{"type": "image", "image": PICTURE}]}, {"role": "assistant", "content": "a"}]
    assert seeing.look(Request([*shown, *later.messages])).said is not None
    forced = Request(ask(question).messages, forced_answer="remembered")
    assert seeing.look(forced).request is forced


def test_the_answer_counts_like_any_other(seeing: Looking, tiny_engine: Engine) -> None:
    request = ask("[refer] where is the dog?")
    completion, _ = seeing.answer(request)
    [forced] = tiny_engine.generate([Request(request.messages, request.sampling, forced_answer=format_box(DOG))])
    assert completion.completion_tokens == forced.completion_tokens == len(forced.token_ids)
    assert (
        completion.prompt_tokens
        == tiny_engine.generate([ask("[refer] where is the dog?", max_tokens=1)])[0].prompt_tokens
    )
    cut, claims = seeing.answer(ask("[refer] where is the dog?", max_tokens=3))
    assert cut.finish_reason == "length" and len(claims) == 1


def test_a_stream_has_its_claims_at_the_end(seeing: Looking) -> None:
    stream = seeing.stream(ask("[refer] where is the dog?"))
    pieces = []
    for delta in stream:
        assert stream.claims == () or delta.completion is not None
        pieces.append(delta.text)
    assert "".join(pieces) == format_box(DOG) and len(pieces) > 3
    assert [claim.box for claim in stream.claims] == [DOG]


def test_the_picture_is_encoded_once(tiny_engine: Engine, library: ScriptedLibrary, seeing: Looking) -> None:
    picture = Image.effect_noise((70, 50), 60).convert("RGB")
    encoded = tiny_engine.model_runner.images_encoded
    seeing.answer(ask("[refer] where is the dog?", picture))
    seeing.answer(ask("what colour is it?", picture, max_tokens=2))
    assert tiny_engine.model_runner.images_encoded == encoded + 1
    features = library.seen[-1]
    assert features.shape == (4, 4, 32)
    np.testing.assert_allclose(features.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(-1), 1, atol=1e-2)


def test_features_are_those_of_the_models_own_tower(tiny_engine: Engine, tiny_checkpoint: Path) -> None:
    picture = Image.effect_noise((64, 48), 70).convert("RGB")
    features = tiny_engine.vision_features(picture)
    processor = MiniGPTv2Processor.from_pretrained(tiny_checkpoint)
    pixels = processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    direct = MiniGPTv2ForConditionalGeneration.from_pretrained(tiny_checkpoint).model.encode_images(pixels)[0]
    np.testing.assert_allclose(features.reshape(16, 32), direct.numpy(), atol=1e-5)


class ScriptedDetector:
    """Knows dogs and people."""

    found: Mapping[str, Sequence[tuple[Box, float]]] = {"dog": [(Box(0.1, 0.2, 0.55, 0.6), 0.9)], "person": []}

    def detect(self, image: Image.Image, noun: str) -> Sequence[tuple[Box, float]] | None:
        return self.found.get(noun.removesuffix("s"))

    def count(self, image: Image.Image, noun: str) -> Count:
        found = self.detect(image, noun)
        if found is None:
            return Count(noun=noun, label=None, number=None)
        boxes = tuple(box for box, _ in found)
        return Count(noun=noun, label=noun, number=len(boxes), at_least=len(boxes) > 0, boxes=boxes)


@pytest.fixture(scope="module")
def detecting(tiny_engine: Engine, library: ScriptedLibrary) -> Looking:
    return Looking(tiny_engine, library, detector=ScriptedDetector())  # type: ignore[arg-type]


def test_the_detector_counts(detecting: Looking) -> None:
    completion, claims = detecting.answer(ask("[vqa] how many dogs are there?"))
    assert completion.text == "at least 1"
    assert [(claim.phrase, claim.source) for claim in claims] == [("dogs", "detector")]
    completion, [claim] = detecting.answer(ask("how many persons are there?"))
    assert (completion.text, claim.phrase, claim.box) == (
        "Not sure – perhaps there are no persons.",
        "no persons",
        None,
    )
    assert detecting.answer(ask("[vqa] how many persons are there?"))[0].text == "0"
    assert detecting.answer(ask("how many dogs are there?"))[0].text == "Not sure – perhaps at least 1 dog."
    assert detecting.look(ask("how many zebras are there?")).said is None
    assert detecting.look(ask("how many brown dogs are there?")).said is None


def test_the_detectors_sides_are_the_better_ones(detecting: Looking) -> None:
    completion, claims = detecting.answer(ask("[refer] where is the dog?"))
    assert completion.text == format_box(Box(0.1, 0.2, 0.55, 0.6))
    assert [(claim.source, claim.confidence) for claim in claims] == [("detector", 0.9)]
    # It knows no colours, so it is no surer of them than the read-outs.
    [claim] = detecting.answer(ask("[refer] where is the brown dog?"))[1]
    assert (claim.source, claim.confidence) == ("detector", 0.8)


def test_of_several_that_the_detector_sees_the_side_is_meant(
    tiny_engine: Engine, library: ScriptedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right, doubtful = Box(0, 0.2, 0.3, 0.6), Box(0.4, 0.2, 0.9, 0.9), Box(0.9, 0.2, 1, 0.3)
    seen = {"dog": [(right, 0.95), (left, 0.9), (doubtful, 0.2)], "cat": [(right, 0.5)]}
    monkeypatch.setattr(ScriptedDetector, "found", seen)
    detecting = Looking(tiny_engine, library, detector=ScriptedDetector())  # type: ignore[arg-type]
    for question, box, sure in [
        ("where is the dog on the left?", left, 0.9),
        ("[refer] the dog on the right", right, 0.95),
        ("where is the cat?", right, 0.5),  # the read-outs alone cannot point at it
    ]:
        [claim] = detecting.answer(ask(question))[1]
        assert (claim.box, claim.confidence, claim.source) == (box, sure, "detector")


def test_a_caption_has_the_boxes_of_the_eyes(
    tiny_engine: Engine, seeing: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        "<p>a dog</p> {<0><0><99><99>} near <p>a zebra</p> {<1><1><2><2>}, <p>another dog</p> {<3><3><4><4>} "
        "and <p>a cat</p> {<0><0><9><9>}."
    )

    def stream(engine: Engine, request: Request, cancel: Any = None) -> Iterator[Any]:
        forced = Request(request.messages, request.sampling, forced_answer=own)
        return generated(engine, forced if request.forced_answer is None else request, cancel)

    generated = Engine.stream
    monkeypatch.setattr(Engine, "stream", stream)
    completion, claims = seeing.answer(ask(instruction(Task.GROUNDING), max_tokens=300))
    assert completion.text == (
        f"<p>a dog</p> {format_box(DOG)} near <p>a zebra</p> {{<1><1><2><2>}}, "
        f"<p>another dog</p> {format_box(CAT)} and a cat."
    )
    assert [(claim.phrase, claim.source) for claim in claims] == [
        ("a dog", "read-out"),
        ("a zebra", "model"),
        ("another dog", "read-out"),
        ("a cat", "read-out"),
    ]


def test_a_failing_eye_is_no_reason_not_to_answer(
    seeing: Looking, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("the read-outs were learnt from another image tower")

    monkeypatch.setattr(ScriptedLibrary, "find", fail)
    request = ask("[refer] where is the dog?", max_tokens=6)
    assert seeing.answer(request)[0].text == tiny_engine.generate([request])[0].text


def test_a_picture_of_one_pixel_is_looked_at(seeing: Looking) -> None:
    completion, _ = seeing.answer(ask("[refer] where is the dog?", Image.new("RGB", (1, 1))))
    assert completion.text == format_box(DOG)


def test_probabilities() -> None:
    assert yes_probability([-1.0, -1.0]) == 0.5
    assert combined(0.5, 0.5) == pytest.approx(0.5, abs=0.2)
    assert combined(0.9, 0.9) > combined(0.9, 0.5) > combined(0.9, 0.1)
    assert 0 < combined(0.0, 0.0) < combined(1.0, 1.0) < 1
    assert log_odds(0.5) == 0
