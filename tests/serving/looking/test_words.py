"""Small talk is known as such, questions by their sort, and short answers become sentences."""

import pytest

from fourfold.assistant.grounding import Box
from fourfold.serving.looking.kinds import Kind, kind_of, wants_short
from fourfold.serving.looking.sentences import counted, here, perhaps_there, sentence, there, unsure
from fourfold.serving.looking.small_talk import Talk, reply_to, small_talk


@pytest.mark.parametrize(
    ("words", "talk"),
    [
        ("Hello!", Talk.GREETING),
        ("hi there", Talk.GREETING),
        ("Good morning, Fourfold", Talk.GREETING),
        ("Thanks!", Talk.THANKS),
        ("ok, thank you so much", Talk.THANKS),
        ("Great!", Talk.THANKS),
        ("Thank you, that was helpful", Talk.THANKS),
        ("thanks, that helps", Talk.THANKS),
        ("Thanks, that's great!", Talk.THANKS),
        ("thanks, is there a dog?", None),
        ("Can you read text in pictures?", Talk.READING),
        ("can you read?", Talk.READING),
        ("can you read the text?", None),
        ("What can you do?", Talk.ABOUT),
        ("who are you", Talk.ABOUT),
        ("How are you?", Talk.ABOUT),
        ("are you ChatGPT?", Talk.ABOUT),
        ("help", Talk.ABOUT),
        ("Hello, is there a dog?", None),
        ("hi, what is this", None),
        ("what do you see?", None),
        ("what can you see in the picture?", None),
        ("who is this?", None),
        ("is this good?", None),
        ("is there a bot in the picture?", None),
        ("help the dog", None),
        ("", None),
        ("thanks " * 40, None),
    ],
)
def test_small_talk(words: str, talk: Talk | None) -> None:
    assert small_talk(words) is talk


@pytest.mark.parametrize("talk", Talk)
@pytest.mark.parametrize("picture", [True, False])
def test_replies_are_at_most_two_sentences(talk: Talk, picture: bool) -> None:
    reply = reply_to(talk, "Good at places; often wrong about colours.", picture=picture)
    assert 1 <= reply.count(".") + reply.count("!") + reply.count("?") <= 2
    assert talk is Talk.THANKS or "small model" in reply


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("is the girl eating?", Kind.YES_NO),
        ("[vqa] is the dog left of the cat?", Kind.RELATION),
        ("What color is it?", Kind.COLOUR),
        ("which colour does the car have?", Kind.COLOUR),
        ("how many wheels does it have?", Kind.NUMBER),
        ("what animal is this?", Kind.WHAT),
        ("who is in the picture?", Kind.WHAT),
        ("what is the man holding?", Kind.ACTION),
        ("Describe the picture", Kind.CAPTION),
        ("what is going on here?", Kind.CAPTION),
        ("what's in this picture?", Kind.CAPTION),
        ("What do you see?", Kind.CAPTION),
        ("what is in the bowl?", Kind.WHAT),
        ("What does the sign say?", Kind.TEXT),
        ("What does it say on the sweater?", Kind.TEXT),
        ("what time is it?", Kind.TEXT),
        ("Which picture shows a dog?", Kind.COMPARISON),
        ("in which of the photos is Rex?", Kind.COMPARISON),
        ("what is the difference between the two pictures?", Kind.COMPARISON),
        ("why is she crying?", Kind.BEYOND),
        ("how do I boil an egg?", Kind.BEYOND),
        ("Was ist das?", Kind.FOREIGN),
        ("¿Qué hay en la foto?", Kind.FOREIGN),
        ("Что это?", Kind.FOREIGN),
        ("how many people are in the café?", Kind.NUMBER),
        ("a dog", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_questions_by_their_sort(question: str, kind: Kind) -> None:
    assert kind_of(question) is kind


@pytest.mark.parametrize(
    ("question", "short"),
    [
        ("[vqa] what is this?", True),
        ("what is this?\nAnswer the question with a single word or a short phrase.", True),
        ("Is it hateful? Answer yes or no.", True),
        ("What is this?\nOptions:\nA. dog\nB. cat", True),
        ("What is this?\nA. dog\nB. cat", True),
        ("what is this?", False),
        ("[caption] describe this image briefly", False),
    ],
)
def test_benchmarks_want_one_word(question: str, short: bool) -> None:
    assert wants_short(question) is short


def test_sentences() -> None:
    assert sentence("red") == "Red."
    assert sentence("Two dogs run.") == "Two dogs run."
    assert sentence("") == ""
    assert unsure("red") == unsure("Red.") == "Not sure – perhaps red."
    assert unsure(unsure("red")) == "Not sure – perhaps red."
    assert unsure("TV") == "Not sure – perhaps TV."
    assert there("dog", is_there=True) == "Yes, there is a dog."
    assert there("brown dogs", is_there=True) == "Yes, there are brown dogs."
    assert there("water", is_there=True) == "Yes, there is water."
    assert there("Rex", is_there=True) == "Yes, there is Rex."
    assert there("dog", is_there=False) == "No, I see no dog."
    assert unsure(perhaps_there("dog", is_there=True)) == "Not sure – perhaps there is a dog."
    assert unsure(perhaps_there("dogs", is_there=False)) == "Not sure – perhaps there are no dogs."
    assert counted(1, "dogs") == "I count 1 dog."
    assert counted(3, "tennis racket") == "I count 3 tennis rackets."
    assert counted(4, "people", at_least=True) == "I count at least 4 people."
    assert counted(0, "dogs") == "I see no dogs."
    box = Box(0.1, 0.2, 0.5, 0.6)
    assert here("red ball", [box]) == "Here is the <p>red ball</p> {<10><20><50><60>}."
    assert here("dog", [box, box]).startswith("Here are the <p>dog</p>")
    assert here("Rex", [box]).startswith("Here is <p>Rex</p>")
