"""What was shown once is known in other pictures, from the next question on and until it is forgotten."""

from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.readouts import ReadoutLibrary
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.looking import Looking
from fourfold.serving.looking.concepts import ConceptReadouts
from tests.serving.looking.learnt import PAINT, scene
from tests.serving.looking.scripted import DOG, ScriptedLibrary, finding

GREEN = "lime"  # what nothing was learnt of


@pytest.fixture
def store(tmp_path: Path) -> ConceptStore:
    return ConceptStore(tmp_path / "refine")


@pytest.fixture
def seeing(tiny_engine: Engine, learnt: ReadoutLibrary, store: ConceptStore) -> Looking:
    return Looking(tiny_engine, learnt, ConceptReadouts(store, tiny_engine, learnt))


def ask(question: str, image: Image.Image) -> Request:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return Request([{"role": "user", "content": content}], Sampling(max_tokens=60))


def show(store: ConceptStore, name: str, seed: int, *others: str, positive: bool = True) -> None:
    picture, boxes = scene(seed, GREEN, *others)
    store.show(name, Attachment.from_image(picture), [boxes[GREEN]], positive=positive)


def test_nouns_are_pointed_at(seeing: Looking) -> None:
    right = 0
    for seed in range(900, 910):
        picture, boxes = scene(seed, "dog", "cat")
        completion, claims = seeing.answer(ask("[refer] where is the dog?", picture))
        assert claims and claims[0].source == "read-out" and completion.finish_reason == "stop"
        right += claims[0].box is not None and claims[0].box.iou(boxes["dog"]) >= 0.5
    assert right >= 9


def test_a_thing_shown_once_is_pointed_at_and_named(seeing: Looking, store: ConceptStore) -> None:
    picture, boxes = scene(700, GREEN, "cat")
    question = ask("where is Rex?", picture)
    assert seeing.look(question).said is None
    show(store, "Rex", 701)
    _, [claim] = seeing.answer(question)
    assert (claim.phrase, claim.source) == ("Rex", "shown once")
    assert claim.box is not None and claim.box.iou(boxes[GREEN]) > 0.3
    assert seeing.answer(ask("who is this?", picture))[0].text == "This is Rex."
    there, elsewhere = (seeing.eyes(one).find("Rex") for one in (picture, scene(702, "cat", "dog")[0]))
    assert there is not None and elsewhere is not None and there.presence > elsewhere.presence
    presence, [claim] = seeing.answer(ask("is there Rex?", picture))
    assert ("there is Rex." in presence.text) == (there.presence >= 0.5) and claim.source == "shown once"
    store.rename("Rex", "our bracket")
    assert seeing.look(question).said is None
    assert seeing.answer(ask("point to our bracket", picture))[1][0].source == "shown once"
    store.forget("our bracket")
    assert seeing.look(ask("point to our bracket", picture)).said is None
    assert seeing.eyes(picture).library is seeing.library


@pytest.mark.parametrize("presence", [0.05, 0.25, 0.6])
def test_where_it_is_and_whether_it_is_there_agree(tiny_engine: Engine, presence: float) -> None:
    things = {"snowy": finding("Snowy", (DOG, 0.4), presence=presence, source="shown once")}
    seeing = Looking(tiny_engine, ScriptedLibrary(things, concepts=("Snowy",)))  # type: ignore[arg-type]
    is_there, where, point = (
        seeing.answer(ask(question, Image.new("RGB", (80, 60))))[0].text
        for question in ("is Snowy there?", "where is Snowy?", "[refer] Snowy")
    )
    if presence < 0.3:
        assert (is_there, where, point) == ("No, I see no Snowy.", "I see no Snowy.", "I see no Snowy.")
    else:
        assert "there is Snowy" in is_there and "<p>Snowy</p>" in where and point.startswith("{<")


def test_what_it_is_not_alone_teaches_nothing(seeing: Looking, store: ConceptStore) -> None:
    show(store, "Rex", 701, positive=False)
    assert seeing.look(ask("where is Rex?", scene(700, GREEN)[0])).said is None


def test_features_of_examples_are_kept_for_each_tower(
    seeing: Looking, store: ConceptStore, tiny_engine: Engine, learnt: ReadoutLibrary
) -> None:
    show(store, "Rex", 703)
    [example] = store.list()[0].examples
    assert store.features(example.image, learnt.tower) is None
    library = seeing.eyes(scene(700, GREEN)[0]).library
    assert library.concepts == ("Rex",)
    kept = store.features(example.image, learnt.tower)
    assert kept is not None and kept.shape == (4, 4, 32)
    again = ConceptReadouts(store, tiny_engine, learnt)
    encoded = tiny_engine.model_runner.images_encoded + tiny_engine.model_runner.images_reused
    assert again.library().concepts == ("Rex",)
    assert tiny_engine.model_runner.images_encoded + tiny_engine.model_runner.images_reused == encoded


def test_another_process_shows_and_forgets(seeing: Looking, store: ConceptStore) -> None:
    picture, _ = scene(700, GREEN)
    assert seeing.look(ask("where is Rex?", picture)).said is None
    show(ConceptStore(store.directory), "Rex", 704)
    assert seeing.look(ask("where is Rex?", picture)).said is not None
    ConceptStore(store.directory).forget("rex")
    assert seeing.look(ask("where is Rex?", picture)).said is None


def test_corrections_of_a_known_noun_leave_it_a_noun(seeing: Looking, store: ConceptStore) -> None:
    picture, boxes = scene(705, "dog", "cat")
    corrections = CorrectionStore(store.directory)

    def correct(phrase: str, box: Box) -> None:
        content = [{"type": "image"}, {"type": "text", "text": f"[refer] where is the {phrase}?"}]
        messages = ({"role": "user", "content": content},)
        marked = (CorrectedBox(None, box),)
        record = Correction(messages=messages, rejected="{<0><0><99><99>}", boxes=marked, consent=True)
        corrections.add(record, Attachment.from_image(picture))

    correct("dog", boxes["dog"])
    library = seeing.eyes(picture).library
    assert library.concepts == () and set(library.names) == set(PAINT)
    _, [claim] = seeing.answer(ask("[refer] where is the dog?", picture))
    assert claim.source == "read-out" and claim.box is not None and claim.box.iou(boxes["dog"]) >= 0.5
    correct("bracket", boxes["cat"])
    _, [claim] = seeing.answer(ask("[refer] where is the bracket?", picture))
    assert claim.source == "shown once" and claim.box is not None and claim.box.iou(boxes["cat"]) > 0.3
