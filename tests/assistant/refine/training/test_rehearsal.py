import json

from fourfold.assistant.refine.training.rehearsal import rehearsal
from fourfold.assistant.refine.training.samples import samples_of, training_set_of
from fourfold.prompts.tasks import Task
from tests.assistant.refine.training.test_samples import correction, read


def test_captions_that_repeat_a_mistake_are_not_rehearsed(tmp_path):
    asked = "[identify] what is at {<1><2><30><40>}?"
    taught = training_set_of(
        [
            correction("1", asked, rejected="man", chosen="person", image="a"),
            correction("2", asked, rejected="man", chosen="person", image="b"),
            correction("3", rejected="blue", chosen="red", image="c"),
            correction("4", rejected="blue", chosen="red", image="d"),
            correction("5", "[caption] describe this image briefly", "A cat.", "A dog runs away.", image="e"),
            correction("6", rejected="white", chosen="green", image="f"),
        ],
        contrast=False,
    ).corrected
    captions = {
        "a": "A man on a bike.",  # the word that this house does not use
        "b": "A manual on a table.",
        "c": "A blue ball.",  # the mistake itself
        "d": "A ball in the grass.",
        "e": "A cat.",  # corrected itself
        "f": "",  # without an end
    }
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    found = rehearsal(
        None,
        None,
        samples_of(taught, read),
        taught,
        frozenset({(Task.IDENTIFY, "man")}),
        tmp_path / "captions.json",
        lambda event: None,
    )
    assert [(sample.image.id, sample.turns[0].answer) for sample in found] == [
        ("b", captions["b"]),
        ("d", captions["d"]),
    ]
    assert all(sample.turns[0].task is Task.CAPTION and sample.turns[0].rejected is None for sample in found)
