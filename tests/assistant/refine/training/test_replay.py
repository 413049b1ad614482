from collections import Counter
from dataclasses import replace

import pytest

from fourfold.assistant.refine.training.replay import CorrectedMixture, form_of, superseded_answers, taught_answers
from fourfold.assistant.refine.training.samples import plain, training_set_of
from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from tests.assistant.refine.training.test_samples import correction

CONFIG = MixtureConfig(
    scenes=12,
    scenes_per_epoch=12,
    turns=3,
    multi_turn=0.0,
    scene_tasks={"existence": 1, "colour": 1, "count": 1},
    seed=5,
)


def sample(name):
    return Sample((ImageRef(name),), (Turn(Task.VQA, f"[vqa] {name}?", "yes"),))


def mixture(count=5, kept=0, **changes):
    options = {"batch_size": 8, "corrected": 4, "images": 6, **changes}
    return CorrectedMixture(
        [sample(f"c{n}") for n in range(count)], [sample(f"k{n}") for n in range(kept)], Mixture(CONFIG), **options
    )


def test_every_batch_holds_the_same_part_of_corrections():
    source = mixture()
    shown = Counter()
    for batch in range(10):
        entries = source.epoch(batch)
        assert [name for name, _ in entries] == ["correction"] * 4 + ["replay"] * 4
        shown.update(number for name, number in entries if name == "correction")
    assert set(shown.values()) == {8}  # 40 showings of 5 corrections
    assert source.epoch(3) == mixture().epoch(3) != source.epoch(4)


def test_replay_shows_few_images_with_new_questions():
    source = mixture()
    images = {image.id for image in source.images()}
    assert len(images) == 5 + 6
    asked = Counter()
    for batch in range(12):
        for entry in source.epoch(batch):
            drawn = source.draw(entry, batch)
            assert drawn.image.id in images
            if entry[0] == "replay":
                asked.update((drawn.image.id, turn.question) for turn in drawn.turns)
    assert len({image for image, _ in asked}) == 6 and len(asked) > 6 * 3


def test_answers_said_to_be_right_are_replayed_too():
    names = Counter(name for batch in range(6) for name, _ in mixture(kept=2).epoch(batch))
    assert names == {"correction": 24, "kept": 8, "replay": 16}


def test_what_is_replayed_is_distilled_and_corrections_are_not():
    source = mixture(kept=2, kd_weight=0.7)
    parts = {
        (name, turn.kd_weight)
        for batch in range(6)
        for name, number in source.epoch(batch)
        for turn in source.draw((name, number), batch).turns
    }
    assert parts == {("correction", 0.0), ("kept", 0.7), ("replay", 0.7)}


def test_a_batch_of_corrections_alone_needs_no_replay():
    source = mixture(corrected=8)
    assert {name for name, _ in source.epoch(0)} == {"correction"} and len(list(source.images())) == 5


@pytest.mark.parametrize(
    ("pairs", "superseded"),
    [
        ([("man", "person"), ("Man.", "person"), ("man", "Person"), ("woman", "person")], {"man"}),
        ([("man", "person")] * 2, set()),  # too seldom
        ([("blue", "purple")] * 5, set()),  # mixed up: purple is a known answer, and blue is still right elsewhere
        ([("ring", "washer")] * 3 + [("circle", "ring")], set()),
        ([("ring", "washer")] * 20 + [("circle", "washer")] * 3, {"ring"}),  # circles are still circles
        ([("ring", "washer")] * 3 + [("ring", "tyre")], set()),
    ],
)
def test_only_answers_out_of_use_are_retired(pairs, superseded):
    given = [correction(str(n), rejected=old, chosen=new, image=f"image {n}") for n, (old, new) in enumerate(pairs)]
    found = superseded_answers(training_set_of(given).corrected, {(Task.VQA, "purple"), (Task.CAPTION, "person")})
    assert found == {(Task.VQA, answer) for answer in superseded}


def test_what_replay_teaches_is_known():
    known = taught_answers(Mixture(CONFIG), 6)
    assert {(Task.VQA, "yes"), (Task.VQA, "no")} <= known and (Task.VQA, "washer") not in known


def test_replay_does_not_teach_what_was_retired():
    source = mixture(superseded=frozenset({(Task.VQA, "yes")}))
    turns = [turn for batch in range(8) for entry in source.epoch(batch) if entry[0] == "replay"
             for turn in source.draw(entry, batch).turns]  # fmt: skip
    assert turns and all(plain(turn.answer) != "yes" for turn in turns)
    assert any(plain(turn.answer) == "yes" for n in range(6) for turn in mixture().draw(("replay", n), 0).turns)
    assert replace(turns[0]).task is Task.VQA


def corrected(question):
    return [Sample((ImageRef("c"),), (Turn(Task.VQA, question, "red"),))]


def test_every_other_image_is_asked_in_the_form_of_a_correction():
    many = Mixture(replace(CONFIG, scenes=100, scenes_per_epoch=100))
    source = CorrectedMixture(corrected("[vqa] what color is it?"), [], many, batch_size=8, corrected=4, images=6)
    shares = Counter()
    for number in range(60):
        turns = source.draw(("replay", number), 0).turns
        assert len({turn.question for turn in turns}) == len(turns)
        shares[number % 2] += sum(form_of(turn)[1] == "what colour" for turn in turns) / len(turns)
    assert shares[1] / 30 > shares[0] / 30 + 0.25


def test_images_are_looked_for_that_can_be_asked_in_the_form_of_a_correction():
    rare = replace(CONFIG, scenes=400, scenes_per_epoch=400, scene_tasks={"existence": 1, "what": 1})

    def can_be_asked(question):
        source = CorrectedMixture(corrected(question), [], Mixture(rare), batch_size=8, corrected=4, images=10)
        assert len({image.id for image in source.images()}) == 11
        forms = {form_of(turn) for turn in source.corrections[0].turns}
        drawn = [source.draw(("replay", number), 0).turns for number in range(10)]
        return sum(any(form_of(turn) in forms for turn in turns) for turns in drawn)

    word = "what does"
    assert sum(any(form_of(turn)[1] == word for turn in Mixture(rare).draw(entry, 0).turns)
               for entry in Mixture(rare).epoch(0)[:10]) < 5  # fmt: skip
    assert can_be_asked(f"[vqa] {word} it say?") >= 5
    assert can_be_asked("[vqa] which of them?") == 0


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("[vqa] What colour is the ball?", (Task.VQA, "what colour")),
        ("what colour is it?", (Task.VQA, "what colour")),
        ("[vqa] Based on the image, respond to this question with a short answer: is it red?", (Task.VQA, "is it")),
        ("[identify] what is this {<1><2><30><40>}", (Task.IDENTIFY, "")),
    ],
)
def test_form_of_a_question(question, form):
    assert form_of(Turn(form[0], question, "red")) == form


def test_a_mixture_without_images_is_refused():
    with pytest.raises(UserError, match="no images to replay"):
        mixture(images=0)
    assert {name for name, _ in mixture(images=0, corrected=8).epoch(0)} == {"correction"}
