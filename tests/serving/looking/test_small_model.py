"""A model whose card says that it knows little: it says what it cannot do, and marks what is doubtful."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from fourfold.assistant.checkpoints.card import Card, MeasuredCard
from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, instruction
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.engine.requests import Completion, Delta, TokenLogprob
from fourfold.serving.looking import Claim, Looking
from fourfold.serving.looking.certainty import certainty
from fourfold.serving.looking.eyes import SHOWN
from fourfold.serving.looking.own_answers import (
    BEYOND,
    NO_ANSWER,
    NO_READER,
    NOT_UNDERSTOOD,
    ONE_AT_A_TIME,
    ONLY_ENGLISH,
    WHAT_IS_IT,
)
from fourfold.serving.looking.question import read_question
from fourfold.serving.looking.small_talk import CAN_READ, CANNOT_READ, WITHOUT_A_PICTURE
from tests.serving.looking.scripted import CAT, DOG, ScriptedDetector, ScriptedLibrary, finding

PICTURE = Image.effect_noise((80, 60), 90).convert("RGB")
OTHER = Image.effect_noise((50, 50), 60).convert("RGB")
LINE = "Good at places; often wrong about colours."
CARD = MeasuredCard(
    eyes=Card(LINE), talks=False, certainty={"what": (1.0, 0.0), "yes or no": (1.0, 0.0), "caption": (1.0, 0.0)}
)
LIBRARY = ScriptedLibrary(
    {
        "dog": finding("dog", (DOG, 0.8), (CAT, 0.45)),
        "cat": finding("cat", (CAT, 0.3), presence=0.6),
        "ball": finding("ball", (CAT, 0.8), presence=0.9),
        "car": finding("car", (DOG, 0.5), presence=0.01),
    },
    paint={"dog": [("brown", 0.9), ("black", 0.1)], "cat": [("gray", 0.4), ("white", 0.3), ("purple", 0.07)]},
)

Says = Callable[..., None]


@pytest.fixture(scope="module")
def small(tiny_engine: Engine) -> Looking:
    return Looking(tiny_engine, LIBRARY, card=CARD)  # type: ignore[arg-type]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    """Makes the model say something, with this log-probability; `asked` gets the requests. To "is there" it says no."""

    def say(text: str, logprob: float = -0.01, asked: list[Request] | None = None) -> None:
        def stream(_: Engine, request: Request, cancel: Any = None) -> Iterator[Delta]:
            if asked is not None:
                asked.append(request)
            logprobs = [TokenLogprob(1, text, text.encode(), logprob)]
            yield Delta(text, completion=Completion(text, [1], "stop", 1, 0, 1, logprobs, {}))

        monkeypatch.setattr(Engine, "stream", stream)

    monkeypatch.setattr(Engine, "score", lambda *_: [-5.0, -0.1])
    return say


def ask(question: str, *images: Image.Image) -> Request:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
    return Request([{"role": "user", "content": content}], Sampling(max_tokens=120))


def said(small: Looking, question: str, *images: Image.Image) -> str:
    return small.answer(ask(question, *images or (PICTURE,)))[0].text


def test_without_a_picture_it_asks_for_one(small: Looking) -> None:
    for question in ("What is the capital of France?", "tell me a joke", "where is the dog?", "[refer] the dog"):
        completion, claims = small.answer(ask(question))
        assert (completion.text, claims) == (WITHOUT_A_PICTURE, ())
    assert "picture" in small.answer(ask("Hello!"))[0].text
    assert small.answer(ask("What can you do?"))[0].text.endswith(LINE)


def test_benchmarks_ask_it_blind_and_get_no_boxes(small: Looking, says: Says) -> None:
    says("<p>yes</p> {<0><0><99><99>}")
    assert small.answer(ask("[vqa] is there a dog?"))[0].text == "yes"


def test_thanks_are_no_question_about_the_picture(small: Looking) -> None:
    for words in ("Thanks!", "Thank you, that was helpful", "thanks, that helps"):
        assert said(small, words) == small.answer(ask(words))[0].text == "You are welcome."


@pytest.mark.parametrize(("installed", "answer"), [(True, CAN_READ), (False, CANNOT_READ)])
def test_whether_it_can_read_depends_on_the_reader(
    small: Looking, monkeypatch: pytest.MonkeyPatch, installed: bool, answer: str
) -> None:
    monkeypatch.setattr("fourfold.serving.looking.small_talk.has_reader", lambda: installed)
    assert said(small, "Can you read text in pictures?") == answer


def test_presence_is_asked_in_more_than_one_way(small: Looking, says: Says) -> None:
    says("nonsense")
    for question in ("is the dog there?", "Is the dog in the picture?", "is a dog here?"):
        assert said(small, question) == said(small, "is there a dog?")
    assert said(small, "is the car in the second picture?", PICTURE, OTHER) == "No, I see no car."


def test_a_model_that_talks_is_left_alone(tiny_engine: Engine) -> None:
    for card in (None, MeasuredCard(eyes=Card(LINE), talks=True)):
        big = Looking(tiny_engine, LIBRARY, card=card)  # type: ignore[arg-type]
        for request in (ask("Hello!"), ask("What is the capital of France?"), ask("what is this?", PICTURE, OTHER)):
            assert big.look(request).request is request


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what time is it?", NO_READER),
        ("Was ist das?", ONLY_ENGLISH),
        ("why is the dog sad?", BEYOND),
        ("asdf qwer", NOT_UNDERSTOOD),
        ("what colour is the car?", "I see no car."),
        ("why is the car broken?", "I see no car."),
        ("what is the car made of?", "I see no car."),
        ("where is the car?", "I see no car."),
        ("where is the gargoyle?", "I cannot point at the gargoyle."),
        ("[refer] give me the location of the gargoyle", "I cannot point at the gargoyle."),
        ("find all gargoyles", "I cannot point at the gargoyles."),
        ("what colour is the dog?", "Brown."),
        ("what colour is the cat?", "Not sure – perhaps gray."),
        ("[vqa] what colour is the cat?", "gray"),
        ("is the dog brown?", "Yes."),
        ("is the dog to the left of the ball?", "Yes."),
        ("[vqa] is the dog to the right of the ball in the picture?", "no"),
        ("is the ball to the left of the cat?", "Not sure – perhaps no."),
        ("is the car on the left of the dog?", "I see no car."),
        ("is the cat purple?", "Not sure – perhaps no."),
        ("[vqa] is the dog black?", "yes"),
    ],
)
def test_what_it_says_of_what_it_cannot_tell(small: Looking, says: Says, question: str, answer: str) -> None:
    says("nonsense {<0><0><99><99>}")
    assert said(small, question) == answer


def test_boxes_that_are_doubtful_are_marked(small: Looking) -> None:
    assert said(small, "where is the cat?") == f"Not sure – perhaps here is the <p>cat</p> {format_box(CAT)}."
    assert said(small, "where is the dog?") == f"Here is the <p>dog</p> {format_box(DOG)}."
    for chance, start in ((0.49, "Not sure"), (0.51, "Here is")):
        library = ScriptedLibrary({"train": finding("train", (CAT, chance), presence=0.9)})
        assert said(replace(small, library=library), "where is the train?").startswith(start)  # type: ignore[arg-type]


def test_its_own_answers_say_how_sure_they_are(small: Looking, says: Says) -> None:
    says("dog", -0.1)
    completion, [claim] = small.answer(ask("what animal is this?", PICTURE))
    assert completion.text == "A dog."
    assert claim == Claim("dog", None, claim.confidence, "model") and claim.confidence == pytest.approx(0.905, abs=1e-3)
    says("dog", -0.7)
    assert said(small, "what animal is this?") == "Not sure – perhaps a dog."
    says("dog", -4)
    assert said(small, "what animal is this?") == NO_ANSWER
    says("girl", -0.01)
    assert said(small, "what is the girl in the water holding?") == NO_ANSWER
    says("yes", -0.02)
    assert said(small, "is the girl eating?") == "Yes."
    # Of kinds that were not measured nothing is certain.
    assert said(small, "is the dog taller than a girl?") == "Not sure – perhaps yes."


def test_certainty_is_calibrated() -> None:
    def completion(*logprobs: float) -> Completion:
        return Completion("a", [1], "stop", 1, 0, 1, [TokenLogprob(1, "a", b"a", one) for one in logprobs], {})

    card = MeasuredCard(certainty={"what": (2.0, -1.0)})
    # The log-odds of 0.5 are 0.
    assert certainty(card, "what", completion(-0.3466, -0.3466)) == pytest.approx(0.2689, abs=1e-3)  # type: ignore[arg-type]
    assert certainty(card, "what", completion(0.0)) <= 1  # type: ignore[arg-type]
    assert certainty(card, "what", completion(-1000.0)) >= 0  # type: ignore[arg-type]
    assert certainty(card, "colour", completion(-0.1)) == 0.5  # type: ignore[arg-type]


def test_what_it_cannot_name_the_detector_may(tiny_engine: Engine, says: Says) -> None:
    says("vase", -4)
    for chance, answer in ((0.95, "A clock."), (0.5, NO_ANSWER)):
        looking = Looking(tiny_engine, LIBRARY, detector=ScriptedDetector({"clock": [chance]}), card=CARD)  # type: ignore[arg-type]
        assert said(looking, "what is this?") == answer


def test_descriptions_are_checked(small: Looking, says: Says) -> None:
    asked: list[Request] = []
    says("A dog with a car and a ball.", asked=asked)
    completion, claims = small.answer(ask("Describe the picture", PICTURE))
    assert completion.text == "A dog with a ball."
    assert [(claim.phrase, claim.confidence) for claim in claims] == [("A dog", 0.9), ("a ball", 0.9)]
    assert asked[0].messages[-1]["content"][-1]["text"] == instruction(Task.CAPTION)
    says("A car is parked.")
    assert said(small, "what do you see?") == "Not sure – perhaps a car is parked."
    says("A dog {<0><0><99><99>} near <p>a ball</p> {<0><0><99><99>}.")
    text = said(small, "[grounding] please describe this image in details")
    assert text == f"<p>A dog</p> {format_box(DOG)} near <p>a ball</p> {format_box(CAT)}."


def test_no_two_things_of_a_description_have_one_box(tiny_engine: Engine, says: Says) -> None:
    same = {name: finding(name, (DOG, 0.8)) for name in ("dog", "ball", "cat")}
    looking = Looking(tiny_engine, ScriptedLibrary(same), card=CARD)  # type: ignore[arg-type]
    says("A dog, a ball and a cat.")
    text = said(looking, "[grounding] please describe this image in details")
    assert text == f"<p>A dog</p> {format_box(DOG)}, a ball and a cat."


def test_one_of_several_pictures_is_asked_about_by_its_number(small: Looking, says: Says) -> None:
    asked: list[Request] = []
    says("a toy", asked=asked)
    assert said(small, "what is this?", PICTURE, OTHER) == f"{ONE_AT_A_TIME} Ask about picture 1 or 2."
    assert said(small, "what is in the second picture?", PICTURE, OTHER) == "A toy."
    [content] = [message["content"] for message in asked[-1].messages]
    assert [part["image"] for part in content if part["type"] == "image"] == [OTHER]
    first = {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "what is it?"}]}
    later = ask("and what is in picture 1?", OTHER).messages
    small.look(Request([first, {"role": "assistant", "content": "a"}, *later]))
    [content] = [message["content"] for message in asked[-1].messages]
    assert [part["image"] for part in content if part["type"] == "image"] == [PICTURE]


def conversation(*turns: tuple[str, Image.Image | None]) -> Request:
    messages: list[dict[str, Any]] = []
    for words, image in turns:
        if messages:
            messages.append({"role": "assistant", "content": "Yes."})
        messages += (ask(words) if image is None else ask(words, image)).messages
    return Request(messages, Sampling(max_tokens=120))


def test_it_is_what_the_question_before_named(small: Looking, says: Says) -> None:
    says("nonsense")

    def answer(*turns: tuple[str, Image.Image | None]) -> str:
        return small.answer(conversation(*turns))[0].text

    here = f"Here is the <p>dog</p> {format_box(DOG)}."
    assert answer(("is there a dog?", PICTURE), ("Where is it?", None)) == here
    assert answer(("where is the dog?", PICTURE), ("and what colour is it?", None), ("where is it?", None)) == here
    assert answer(("where is the dog?", PICTURE), ("what colour is it?", None)) == "Brown."
    assert answer(("where is the dog?", PICTURE), ("is it brown?", None)) == "Yes."
    for turns in (
        [("Where is it?", PICTURE)],
        [("where is the dog?", PICTURE), ("where is it?", OTHER)],
        [("is the dog left of the ball?", PICTURE), ("what colour is it?", None)],
        [("how many dogs are there?", PICTURE), ("where is it?", None)],
    ):
        assert answer(*turns) == WHAT_IS_IT
    assert answer(("is there a dog?", PICTURE), ("what is it?", None)) != WHAT_IS_IT


def test_what_is_asked_of_it_keeps_its_picture() -> None:
    asked = read_question(
        conversation(("what is this?", PICTURE), ("where is the dog in picture 1?", OTHER), ("find it", None)).messages
    )
    assert asked.words == "find the dog?" and asked.named and asked.image is PICTURE


def test_absence_names_the_picture_where_there_are_several(small: Looking, says: Says) -> None:
    says("nonsense")
    several = (("what is this?", PICTURE), ("is there a car?", OTHER))
    assert small.answer(conversation(*several))[0].text == "No, I see no car in picture 2."
    named = (("what is this?", PICTURE), ("is there a car in picture 1?", OTHER))
    assert small.answer(conversation(*named))[0].text == "No, I see no car."
    which = (("what is this?", PICTURE), ("Which picture shows a dog?", OTHER))
    assert small.answer(conversation(*which))[0].text == ONE_AT_A_TIME


def test_what_was_shown_once_is_known_by_every_form_of_the_question(small: Looking, says: Says) -> None:
    asked: list[Request] = []
    says("yes", asked=asked)
    for presence, answer in ((0.9, "Yes, there is Rex."), (0.1, "No, I see no Rex.")):
        things = {"rex": finding("Rex", (DOG, 0.8), presence=presence, source=SHOWN)}
        looking = replace(small, library=ScriptedLibrary(things, concepts=("Rex",)))  # type: ignore[arg-type]
        for question in ("is Rex there?", "is rex here?", "Is Rex in the picture?", "Is there Rex?"):
            look = looking.look(ask(question, PICTURE))
            assert look.said is not None and look.said.text == answer
            assert look.said.claims[0].source == SHOWN
    assert not asked


def test_a_failing_reader_is_said(small: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Image.Image) -> None:
        raise UserError("not installed")

    from fourfold.serving.looking import own_answers

    monkeypatch.setattr(own_answers, "read_text", fail)
    assert said(small, "what does the sign say?") == NO_READER


def test_the_reader_says_what_is_written(small: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.assistant.chat.look_again.second_answer import TextLine
    from fourfold.serving.looking import own_answers

    box = Box(0.1, 0.1, 0.5, 0.2)
    for score, start in ((0.95, 'It says "STOP".'), (0.6, 'Not sure – perhaps it says "STOP".')):
        monkeypatch.setattr(own_answers, "read_text", lambda _, score=score: [TextLine("STOP", box, score)])
        completion, [claim] = small.answer(ask("what does the sign say?", PICTURE))
        assert completion.text == start and not parse(completion.text).boxes
        assert claim == Claim("STOP", box, score, "reader")
    monkeypatch.setattr(own_answers, "read_text", lambda _: [])
    assert said(small, "read the sign") == "I see no text that I could read."
