import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.assistant.chat.look_again.claims import Claim, claims_of, counted, is_there, subject, without


def claimed(question, answer):
    return [(c.phrase, c.thing, c.denied) for c in claims_of(question, answer)]


def test_claims_of_phrases_with_boxes():
    answer = "A <p>black dog</p> {<1><2><3><4>} beside <p>two red circles</p> {<5><6><7><8>}<delim>{<1><2><3><4>}"
    first, second = claims_of("[grounding] x", answer)
    assert (first.phrase, first.thing, len(first.boxes)) == ("black dog", "black dog", 1)
    assert (second.phrase, second.thing, len(second.boxes)) == ("two red circles", "red circle", 2)
    [bare] = claims_of("[refer] give me the location of the tall man", "{<1><2><3><4>}")
    assert (bare.thing, len(bare.boxes)) == ("man", 1)


def test_claims_of_yes_and_no():
    assert claimed("[vqa] is there a dog in the image?", "yes") == [("a dog", "dog", False)]
    assert claimed("Can you see any red circles?", "No.") == [("red circles", "red circle", True)]
    assert claimed("[vqa] is the dog brown?", "yes") == []


def test_claims_of_a_caption():
    caption = "A man in a red shirt is standing on a rock, and a dog jumps near two children watching it."
    phrases = ["A man", "a red shirt", "a rock", "a dog", "two children"]
    assert [c.phrase for c in claims_of("[caption] x", caption)] == phrases
    assert claimed("", "A group of young people pose for the camera") == [("A group of young people", "person", False)]
    assert claimed("", "a dog and a dog") == [("a dog", "dog", False)]
    assert claimed("", "2") == claimed("", "red") == claimed("", "") == []


def test_subject():
    for question, thing in {
        "[vqa] what colour is the car?": "car",
        "how many dogs are there?": "dog",
        "how many red shapes are there?": "red shape",
        "[refer] the tall man": "man",
        "[refer] where is the tall man?": "man",
        "[vqa] Based on the image, respond to this question with a short answer: is there a dog?": "dog",
        "is the dog to the left of the cat?": None,
        "[vqa] is the dog brown?": "dog",
        "what is this?": None,
        "": None,
    }.items():
        assert subject(question) == thing, question
    assert counted("[vqa] how many people are in the image?") == "person"
    assert counted("is there a dog?") is None
    assert is_there("umbrella") == "[vqa] is there an umbrella in the image?"


@pytest.mark.parametrize(
    ("answer", "phrases", "left"),
    [
        ("A dog runs with a ball, and a cat sits near the fence.", ["a cat"], "A dog runs with a ball."),
        ("A dog runs on the grass with a ball.", ["a ball"], "A dog runs on the grass."),
        ("A <p>dog</p> {<1><2><3><4>}, a <p>cat</p> {<1><2><3><4>} and a bird.", ["cat"], "A dog and a bird."),
        ("A dog runs with a ball.", ["a dog"], ""),
        ("Nice. A dog. A cat, sitting.", ["a dog"], "Nice. A cat, sitting."),
        ("a dog, a cat, and a bird", ["a cow"], "a dog, a cat, and a bird"),
        ("a dogged man", ["a dog"], "a dogged man"),
    ],
)  # fmt: skip
def test_without(answer, phrases, left):
    assert without(answer, phrases) == left


MARKS = "a the dog cat , . with on and of group red two {<1><2><3><4>} <p> </p> is [vqa] how many ?"
WORDS = st.lists(st.sampled_from(MARKS.split())).map(" ".join)


@given(st.one_of(WORDS, st.text()), st.one_of(WORDS, st.text()))
def test_nonsense_makes_no_trouble(question, answer):
    for claim in claims_of(question, answer):
        assert isinstance(claim, Claim)
        assert claim.thing
    subject(question)
    without(answer, [c.phrase for c in claims_of(question, answer)])
