"""What a question wants that eyes can tell."""

import pytest

from fourfold.assistant.chat.intent import Intent, Wants, intent_of
from fourfold.assistant.grounding import Box
from fourfold.prompts.tasks import INSTRUCTIONS, Task, instruction


@pytest.mark.parametrize("index", range(len(INSTRUCTIONS[Task.REFER])))
def test_every_way_of_referring_asks_for_a_place(index: int) -> None:
    asked = instruction(Task.REFER, "the red ball on the left", index=index)
    assert intent_of(asked) == Intent(Wants.PLACE, "red ball on the left", Task.REFER)


@pytest.mark.parametrize(
    ("question", "wants", "phrase"),
    [
        ("where is the dog?", Wants.PLACE, "dog"),
        ("Where are the two dogs in this picture?", Wants.PLACE, "two dogs"),
        ("point at Rex", Wants.PLACE, "Rex"),
        ("please point to the cat.", Wants.PLACE, "cat"),
        ("show me where the man in the red shirt is", Wants.PLACE, "man in the red shirt"),
        ("[refer] give me the location of <p>a dog</p>", Wants.PLACE, "dog"),
        ("[detection] wine glass", Wants.PLACES, "wine glass"),
        ("find all the people", Wants.PLACES, "people"),
        ("How many dogs are there in the picture?", Wants.NUMBER, "dogs"),
        ("[vqa] how many red circles are there?", Wants.NUMBER, "red circles"),
        ("count the sheep", Wants.NUMBER, "sheep"),
        ("[vqa] is there a dog in the image?", Wants.PRESENCE, "dog"),
        ("can you see any cat?", Wants.PRESENCE, "cat"),
        ("[grounding] please describe this image in details", Wants.CAPTION, ""),
        ("who is this?", Wants.NAME, ""),
        ("is anyone in the room?", Wants.PRESENCE, "person"),
        ("Is there anybody?", Wants.PRESENCE, "person"),
        ("Is Snowy there?", Wants.PRESENCE, "Snowy"),
        ("is rex here?", Wants.PRESENCE, "rex"),
        ("is the dog in the picture?", Wants.PRESENCE, "dog"),
        ("Are the dogs in this photo?", Wants.PRESENCE, "dogs"),
        ("is there a dog here?", Wants.PRESENCE, "dog"),
        ("[vqa] is the red ball to the left of the boy?", Wants.SIDE, "red ball"),
        ("What color is the dog?", Wants.COLOUR, "dog"),
        ("[vqa] what colour are the man's shoes in the picture?", Wants.COLOUR, "man's shoes"),
        ("what is the colour of the red car", Wants.COLOUR, "red car"),
    ],
)
def test_what_is_wanted(question: str, wants: Wants, phrase: str) -> None:
    intent = intent_of(question)
    assert intent is not None
    assert (intent.wants, intent.phrase) == (wants, phrase)


@pytest.mark.parametrize(
    ("question", "phrase", "colour"),
    [
        ("is the sofa blue?", "sofa", "blue"),
        ("Are the man's shoes grey in this picture?", "man's shoes", "gray"),
        ("[vqa] is his shirt red?", "shirt", "red"),
    ],
)
def test_a_colour_may_be_asked_about(question: str, phrase: str, colour: str) -> None:
    intent = intent_of(question)
    assert intent is not None and (intent.wants, intent.phrase, intent.colour) == (Wants.COLOUR, phrase, colour)


def test_a_box_is_asked_about() -> None:
    intent = intent_of(instruction(Task.IDENTIFY, "{<10><20><50><60>}"))
    assert intent == Intent(Wants.NAME, tag=Task.IDENTIFY, box=Box(0.1, 0.2, 0.5, 0.6))


@pytest.mark.parametrize(
    "question",
    [
        "",
        "what colour is it?",
        "is the dog brown or black?",
        "is it red?",
        "what colour is the dog wearing?",
        "where is this?",
        "where are the people going?",
        "is there a dog running?",
        "is the man sitting here?",
        "is Rex asleep here?",
        "is this in the picture?",
        "is it dark here?",
        "how many people are wearing hats?",
        "find out what is wrong",
        "describe this image briefly",
        "[caption] describe this image briefly",
        "[refer] ?",
        "[refer] where is {<1><2><3><4>}?",
        "where is " + "x" * 10_000 + "?",
        "[detection] " + "dog " * 2_500,
        "[identify] what is here?",
    ],
)
def test_other_questions_are_left_to_the_model(question: str) -> None:
    assert intent_of(question) is None


@pytest.mark.parametrize(
    ("question", "several"),
    [
        ("where is the dog?", False),
        ("where are the dogs?", True),
        ("where are the two men in hats?", True),
        ("where is the man with the glasses?", False),
        ("[detection] dog", True),
        ("where is the bus?", False),
    ],
)
def test_more_than_one_thing_is_meant(question: str, several: bool) -> None:
    intent = intent_of(question)
    assert intent is not None and intent.several is several
