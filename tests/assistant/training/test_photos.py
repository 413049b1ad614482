import hashlib
from collections import Counter

import pytest

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.training.data import Mixture, MixtureConfig, View, held_out
from fourfold.assistant.training.data.photo_tasks import (
    captions,
    counts,
    detections,
    grounded_captions,
    refers,
    relations,
)
from fourfold.assistant.training.data.photos import Mention, Photo, Thing, tidy_caption
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

LEFT, RIGHT = Box(0.05, 0.2, 0.3, 0.8), Box(0.6, 0.3, 0.95, 0.9)
PHOTO = Photo(
    id="flickr8k_entities/x",
    source="flickr8k_entities",
    path="x.webp",
    held_out=False,
    captions=("A black dog and a man , left of a tree .", "A dog 's day out"),
    mentions=(Mention(0, 0, 11, (LEFT,)), Mention(0, 16, 21, (RIGHT,)), Mention(1, 0, 5, (LEFT,))),
    things=(
        Thing(("a black dog", "a dog"), ("dog",), (LEFT,), frozenset({"animals"})),
        Thing(("a man",), ("man",), (RIGHT,), frozenset({"people"})),
    ),
    labels=(),
    qa=(),
)


def test_captions_are_tidied():
    assert tidy_caption("A \" dog 's ball , red .") == "A dog's ball, red."
    assert tidy_caption("TWO DOGS") == "Two dogs."


def test_a_grounded_caption_carries_its_boxes():
    text = PHOTO.grounded_caption(0, View())
    assert text == ("<p>A black dog</p> {<5><20><30><80>} and <p>a man</p> {<60><30><95><90>}, left of a tree.")
    assert [phrase.phrase for phrase in parse(text).phrases] == ["A black dog", "a man"]


def test_a_mirror_turns_boxes_and_drops_what_names_sides():
    mirror = View(flip=True)
    assert mirror.box(LEFT).as_tuple() == pytest.approx((0.7, 0.2, 0.95, 0.8))
    assert [turn.answer for turn in captions(PHOTO, mirror)] == ["A dog's day out."]
    assert grounded_captions(PHOTO, mirror)[0].answer == "<p>A dog</p> {<70><20><95><80>}'s day out."
    asked = {turn.question: turn.answer for turn in relations(PHOTO, View())}
    turned = {turn.question: turn.answer for turn in relations(PHOTO, mirror)}
    assert asked["[vqa] is the dog to the left of the man?"] == "yes"
    assert turned["[vqa] is the dog to the left of the man?"] == "no"


def test_a_crop_moves_boxes_and_drops_what_it_cuts_off():
    right_half = View(Box(0.5, 0, 1, 1))
    assert right_half.box(LEFT) is None
    assert right_half.box(RIGHT).as_tuple() == pytest.approx((0.2, 0.3, 0.9, 0.9))
    assert [turn.facts["phrase"] for turn in refers(PHOTO, right_half)] == ["a man"]
    assert [turn.facts["label"] for turn in detections(PHOTO, right_half)] == ["man"]
    assert captions(PHOTO, right_half) == []
    assert [turn.question for turn in counts(PHOTO, right_half)] == ["[vqa] how many men are there?"]


def test_the_crop_of_pixels_is_that_of_boxes():
    from PIL import Image

    image = Image.new("RGB", (200, 100))
    image.paste((255, 0, 0), (120, 30, 190, 90))
    for view in (View(Box(0.5, 0.1, 1, 1)), View(Box(0.3, 0, 1, 1), flip=True)):
        seen = view.image(image)
        box = view.box(Box(0.6, 0.3, 0.95, 0.9)).to_pixels(*seen.size)
        assert seen.getchannel("R").getbbox() == pytest.approx(box, abs=1)


PHOTO_MIXTURE = MixtureConfig(
    photos={"flickr8k_entities": 1.0, "coco": 1.0, "daquar": 0.5},
    views=3,
    photo_tasks={"existence": 4, "caption": 1, "refer": 1, "identify": 1, "absent": 0.5, "annotated": 1},
)


@pytest.fixture(scope="module")
def mixture(shared_data, request):
    return Mixture(PHOTO_MIXTURE)


def test_no_held_out_image_is_trained_on(mixture):
    tested = {item.image.id for task in Task for item in held_out(task, "photos")}
    trained = {name for epoch in range(2) for name, _ in mixture.epoch(epoch)}
    shown = {image.id for image in mixture.images()}
    assert len(tested) > 400 and len(shown) > 7000
    assert not tested & trained and not tested & shown


def test_held_out_scenes_are_not_those_of_training():
    names = {item.image.id for task in Task for item in held_out(task, "scenes", limit=20)}
    assert all(name.startswith("scenes/heldout-") for name in names)


def test_epochs_and_samples_follow_from_the_seed(mixture):
    again = Mixture(PHOTO_MIXTURE)
    plan = mixture.epoch(3)
    assert plan == again.epoch(3) and plan != mixture.epoch(4)
    assert [mixture.draw(entry, 3) for entry in plan[:40]] == [again.draw(entry, 3) for entry in plan[:40]]
    assert mixture.draw(plan[0], 3) != mixture.draw(plan[0], 4)


def test_questions_of_existence_are_balanced(mixture):
    answers: dict[str, Counter] = {}
    for entry in mixture.epoch(0)[:4000]:
        for turn in mixture.draw(entry, 0).turns:
            if turn.facts["kind"] == "existence":
                answers.setdefault(turn.facts["object"], Counter())[turn.answer] += 1
    total = sum(answers.values(), Counter())
    assert abs(total["yes"] / total.total() - 0.5) < 0.03
    often = {noun: count for noun, count in answers.items() if count.total() >= 100}
    assert len(often) > 10
    for noun, count in often.items():
        assert 0.35 < count["yes"] / count.total() < 0.65, noun


def test_held_out_existence_is_balanced_by_question_and_kind(shared_data):
    items = [i for i in held_out(Task.VQA, "photos") if i.turns[0].facts["kind"] == "existence"]
    kinds = Counter(item.turns[0].facts["negative"] for item in items)
    assert kinds[None] * 2 == len(items)
    assert min(kinds["random"], kinds["popular"], kinds["adversarial"]) > len(items) / 8
    answers: dict[str, Counter] = {}
    for item in items:
        answers.setdefault(item.turns[0].facts["object"], Counter())[item.turns[0].answer] += 1
    # Who knows the question only gives its more usual answer; of nouns asked once that is always right.
    often = [count for count in answers.values() if count.total() >= 10]
    blind = sum(max(count.values()) for count in often) / sum(count.total() for count in often)
    assert len(often) > 20 and blind < 0.65


def test_held_out_items_are_the_same_for_the_same_arguments(shared_data):
    for task in Task:
        one, two = (held_out(task, "photos", seed=5, limit=30) for _ in range(2))
        assert one == two and 0 < len(one) <= 30
        assert all(len(item.turns) == 1 for item in one)
    assert held_out(Task.REFER, "photos", 5, 30) != held_out(Task.REFER, "photos", 6, 30)
    with pytest.raises(UserError, match="photos, scenes"):
        held_out(Task.REFER, "paintings")


def test_held_out_items_are_those_of_the_published_figures(shared_data):
    items = [item for source in ("photos", "scenes") for task in Task for item in held_out(task, source, limit=100)]
    lines = [f"{item.image.id} {item.turns[0].question} {item.turns[0].answer}" for item in items]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "451623feafccd86c"


def test_a_mixture_names_what_it_does_not_know():
    with pytest.raises(UserError, match="flickr8k_entities"):
        MixtureConfig(photos={"flicker": 1}, photo_tasks={"caption": 1})
    with pytest.raises(UserError, match="without tasks"):
        MixtureConfig(scenes=3, scenes_per_epoch=3)
