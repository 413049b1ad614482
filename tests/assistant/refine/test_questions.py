import pytest

from fourfold.assistant.refine.questions import asked_phrase, same_question, stands_alone


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


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("[refer] give me the location of the dog", "the dog"),
        ("[refer] where is the red ball?", "the red ball"),
        ("[refer] the dog on the left", "the dog on the left"),
        ("[detection] person", "person"),
        ("where is the dog?", None),
        ("[vqa] where is the dog?", None),
    ],
)
def test_what_a_question_asks_for(question, phrase):
    assert asked_phrase(question) == phrase


@pytest.mark.parametrize(
    "question",
    [
        "what colour is the ball?", "How many dogs are there?", "is there a dog?", "[refer] where is the cup?",
        "[caption] describe this image briefly", "[detection] dog", "Who is the woman in the red coat?",
        "where is the bottle in this picture?", "what is this?", "what do you see in the picture?",
    ],
)  # fmt: skip
def test_questions_that_stand_alone(question: str) -> None:
    assert stands_alone(question)


@pytest.mark.parametrize(
    "question",
    [
        "and its colour?", "how many?", "what colour?", "how many of them are red?", "and the other one?", "why?",
        "which one is bigger?", "is it red?", "what is it?", "[refer] it",
        "and the dog?", "where?", "", "what about her hat?",
    ],
)  # fmt: skip
def test_questions_that_do_not(question: str) -> None:
    assert not stands_alone(question)
