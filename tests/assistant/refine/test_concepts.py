"""Things shown once: taught, listed, renamed, taken along, learnt with, and forgotten for good."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.concepts.example import correction_of
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.concepts.transfer import ImportedConcepts, export_concepts, import_concepts
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.steps import forget_concept
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.samples import training_set_of
from fourfold.prompts.errors import UserError

BOX = Box(0.1, 0.2, 0.5, 0.6)


def picture(colour: str = "red") -> Attachment:
    return Attachment.from_image(Image.new("RGB", (60, 40), colour))


@pytest.fixture
def concepts(tmp_path: Path) -> ConceptStore:
    return ConceptStore(tmp_path / "refine")


@pytest.fixture
def corrections(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "refine")


def boxed(
    question: str, rejected: str, boxes: Sequence[CorrectedBox], *, consent: bool = True, remember: bool = True
) -> Correction:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = ({"role": "user", "content": content},)
    return Correction(messages=messages, rejected=rejected, boxes=tuple(boxes), consent=consent, remember=remember)


def names(concepts: ConceptStore) -> list[str]:
    return [concept.name for concept in concepts.list()]


def test_nothing_is_on_the_disk_before_something_is_shown(concepts: ConceptStore) -> None:
    assert (concepts.list(), concepts.stamp()) == ([], (0, 0, 0))
    with pytest.raises(UserError, match="no concept is called 'Rex'"):
        concepts.forget("Rex")
    with pytest.raises(UserError, match="no concept is called 'Rex'"):
        concepts.rename("Rex", "Max")
    assert not concepts.directory.exists()


def test_what_was_shown_with_an_article_is_found_with_it(concepts: ConceptStore) -> None:
    concepts.show("the Mug", picture(), [BOX])
    assert concepts.get("the mug").name == "Mug"
    assert concepts.rename("The mug", "the cup").name == "cup"
    assert concepts.forget("the cup") == 1 and concepts.list() == []


def test_a_name_is_the_same_in_upper_and_lower_case(concepts: ConceptStore) -> None:
    shown = concepts.show("  our   Bracket ", picture(), [BOX])
    concepts.show("the OUR bracket", picture("blue"), [], positive=False)
    [concept] = concepts.list()
    assert concept.name == "our Bracket"
    assert [(e.boxes, e.positive) for e in concept.examples] == [((BOX,), True), ((), False)]
    assert concepts.get("OUR BRACKET") == concept
    assert concept.examples[0] == shown
    assert concepts.image(shown.image).content == picture().content


@pytest.mark.parametrize(
    ("name", "boxes", "message"),
    [
        ("", [BOX], "needs a name"),
        (" the ", [BOX], None),
        ("x" * 10_000, [BOX], "10000 characters"),
        ("Rex", [], "without any box"),
        ("Rex", [Box(0.5, 0.5, 0.5, 0.5)], "no area"),
        ("Rex", [Box(0.1, 0.1, 0.9, 0.1)], "no area"),
        ("Rex", [[0.5, 0.5]], "four numbers"),
        ("Rex", [[0.5, 0.5, 0.1, 0.9]], "0 <= x1 <= x2 <= 1"),
        ("Rex", [[0, 0, float("nan"), 1]], "0 <= x1 <= x2 <= 1"),
        ("Rex", [BOX] * 51, "at most 50"),
        ("<p>Rex", [BOX], "characters that an answer cannot hold"),
        ("Rex\x00", [BOX], "characters that an answer cannot hold"),
        ("<|im_end|>", [BOX], "characters that an answer cannot hold"),
    ],
)
def test_what_shows_nothing_is_refused(concepts: ConceptStore, name: str, boxes: list, message: str | None) -> None:
    if message is None:
        assert concepts.show(name, picture(), boxes).name == "the"
        return
    with pytest.raises(UserError, match=message):
        concepts.show(name, picture(), boxes)
    assert concepts.list() == []


def test_what_is_no_image_is_refused(concepts: ConceptStore) -> None:
    with pytest.raises(UserError, match="not an image"):
        concepts.show("Rex", Attachment(b"nothing", "nothing"), [BOX])


def test_a_picture_of_one_pixel_shows_something(concepts: ConceptStore) -> None:
    concepts.show("dot", Attachment.from_image(Image.new("RGB", (1, 1))), [Box(0, 0, 1, 1)])
    assert names(concepts) == ["dot"]


def test_renaming_joins_what_has_one_name(concepts: ConceptStore) -> None:
    concepts.show("Rex", picture(), [BOX])
    concepts.show("dog", picture("blue"), [BOX])
    before = concepts.stamp()
    joined = concepts.rename("rex", "the Dog")
    assert joined.name == "dog" and len(joined.examples) == 2
    assert names(concepts) == ["dog"]
    assert concepts.stamp() != before


def test_forgetting_leaves_nothing(concepts: ConceptStore) -> None:
    secret = Attachment.from_image(Image.effect_noise((64, 64), 90).convert("RGB"))
    example = concepts.show("Rexington", secret, [BOX])
    features = np.random.default_rng(0).normal(size=(4, 4, 64)).astype(np.float32)
    concepts.keep_features(example.image, "tower", features)
    np.testing.assert_allclose(concepts.features(example.image, "tower"), features, atol=5e-3)
    assert concepts.features(example.image, "another") is None
    file = concepts.directory / "corrections.sqlite"
    marks = (b"Rexington", secret.content[100:200], features.astype("<f2").tobytes()[:64])
    assert all(mark in _bytes(file) for mark in marks)
    assert concepts.forget("REXINGTON") == 1
    assert not any(mark in _bytes(file) for mark in marks)
    concepts.keep_features(example.image, "tower", features)  # whoever was just looking at it
    assert concepts.features(example.image, "tower") is None


def _bytes(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.glob(file.name + "*"))


def test_one_example_is_forgotten_alone(concepts: ConceptStore) -> None:
    first, second = (concepts.show("Rex", picture(colour), [BOX]) for colour in ("red", "blue"))
    concepts.forget_example(first.id)
    assert concepts.get("Rex").examples == (second,)
    with pytest.raises(UserError, match="no example"):
        concepts.forget_example(first.id)
    with pytest.raises(UserError, match="no image"):
        concepts.image(first.image)


def test_a_corrected_box_becomes_an_example_until_it_is_forgotten(
    corrections: CorrectionStore, concepts: ConceptStore
) -> None:
    marked = [CorrectedBox(None, BOX)]
    record = corrections.add(boxed("[refer] where is the bracket?", "{<0><0><99><99>}", marked), picture())
    [concept] = concepts.list()
    assert concept.name == "bracket"
    assert [(e.boxes, e.positive, e.correction) for e in concept.examples] == [((BOX,), True, record.id)]
    corrections.add(boxed("[detection] bracket", "<p>bracket</p> {<10><10><20><20>}", []), picture("blue"))
    assert concepts.get("bracket").examples[1].boxes == parse("{<10><10><20><20>}").boxes
    assert not concepts.get("bracket").examples[1].positive
    corrections.forget(record.id)
    assert [e.positive for e in concepts.get("bracket").examples] == [False]


def test_a_concept_is_forgotten_without_its_correction(corrections: CorrectionStore, concepts: ConceptStore) -> None:
    record = corrections.add(
        boxed("[grounding] describe", "a man and a dog", [CorrectedBox("a man", BOX), CorrectedBox("a dog", BOX)]),
        picture(),
    )
    assert names(concepts) == ["man", "dog"]
    concepts.forget("dog")
    assert names(concepts) == ["man"]
    assert corrections.list() == [record]
    assert corrections.image(record.image).content == picture().content


def test_nothing_is_made_of_a_correction_that_is_not_to_be_remembered(
    corrections: CorrectionStore, concepts: ConceptStore
) -> None:
    corrections.add(boxed("[refer] dog", "none", [CorrectedBox("dog", BOX)], remember=False), picture())
    corrections.add(boxed("[refer] dog", "none", [CorrectedBox("word " * 50, BOX)]), picture())
    assert concepts.list() == []


def test_a_box_is_known_by_sight_without_consent_to_train(corrections: CorrectionStore, concepts: ConceptStore) -> None:
    corrections.add(boxed("[refer] dog", "none", [CorrectedBox("dog", BOX)], consent=False), picture())
    [example] = concepts.get("dog").examples
    assert example.boxes == (BOX,) and not example.consent
    # A rectangle that was asked about is shown by its right name; a sentence is no name.
    asked = f"[identify] what object is in this location {format_box(BOX)}"
    for chosen in ("a teapot", "it is a teapot of the queen and not a vase"):
        said = replace(boxed(asked, "a vase", [], consent=False), boxes=None, chosen=chosen)
        corrections.add(said, picture("blue"))
    assert [concept.name for concept in concepts.list()] == ["dog", "teapot"]
    assert concepts.get("teapot").examples[0].boxes == (BOX,)


def test_pictures_of_benchmarks_teach_nothing(corrections: CorrectionStore, concepts: ConceptStore) -> None:
    concepts.show("Rex", picture(), [BOX])
    before = concepts.stamp()
    corrections.exclude([picture().hashes], "a benchmark")
    assert concepts.list() == [] and concepts.stamp() != before
    with pytest.raises(UserError, match="benchmark"):
        concepts.show("Rex", picture(), [BOX])


def test_what_was_shown_is_learnt_with_the_corrections(concepts: ConceptStore) -> None:
    concepts.show("Rex", picture(), [Box(0.5, 0.2, 0.9, 0.6), BOX])
    concepts.show("Rex", picture("blue"), [], positive=False)
    concepts.show("Rex", picture("green"), [BOX], positive=False)
    concepts.show("Max", picture("white"), [BOX], consent=False)
    taught = [correction_of(e) for concept in concepts.list() for e in concept.examples]
    learnt = training_set_of([correction for correction in taught if correction is not None])
    assert [(target.question, target.answer) for target in learnt.corrected] == [
        ("[detection] Rex", "<p>Rex</p> {<10><20><50><60>}<delim>{<50><20><90><60>}"),
        ("[detection] Rex", "none"),
    ]
    assert learnt.to_review == ()


def test_an_adapter_that_has_learnt_it_is_known(corrections: CorrectionStore, concepts: ConceptStore) -> None:
    example = concepts.show("Rex", picture(), [BOX])
    registry = Registry(corrections.directory)
    assert forget_concept(corrections, registry, "rex") == (1, None)
    assert list(corrections.forgotten()) == [example.id]
    with pytest.raises(UserError, match="no concept"):
        forget_concept(corrections, registry, "rex")


def test_concepts_travel(concepts: ConceptStore, tmp_path: Path) -> None:
    concepts.show("Rex", picture(), [BOX])
    concepts.show("Rex", picture("blue"), [], positive=False, consent=False)
    file = tmp_path / "out" / "concepts.jsonl"
    assert export_concepts(concepts, file) == 2
    other = ConceptStore(tmp_path / "other")
    assert import_concepts(other, file) == ImportedConcepts(2, 0)
    assert import_concepts(other, file) == ImportedConcepts(0, 2)
    assert other.list() == concepts.list()
    other.forget("Rex")
    assert import_concepts(other, file) == ImportedConcepts(2, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not JSON"),
        ("[]", "JSON object"),
        ('{"name": "Rex"}', "image must be the path"),
        ('{"name": "Rex", "image": "no.png", "boxes": []}', "does not exist"),
        ('{"name": "Rex", "image": "data:image/png;base64,AAAA", "boxes": [[0, 0, 1, 1]]}', "not an image"),
        ('{"image": "red.png", "boxes": [[0, 0, 1, 1]]}', "name is missing"),
        ('{"name": "Rex", "image": "red.png", "boxes": [[0, 0, 1, 1]], "sure": true}', "sure is unknown"),
        ('{"name": "Rex", "image": "red.png", "boxes": []}', "without any box"),
    ],
)
def test_a_bad_line_imports_nothing(concepts: ConceptStore, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "red.png").write_bytes(picture().content)
    good = json.dumps({"name": "Rex", "image": "red.png", "boxes": [[0, 0, 1, 1]]})
    file = tmp_path / "concepts.jsonl"
    file.write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=f"(?s)line 2.*{message}|{message}"):
        import_concepts(concepts, file)
    assert concepts.list() == []
