"""Thoughts: told from answers, while they arrive too, and kept apart where the endpoint does."""

import pytest
from langchain_core.messages import AIMessageChunk

from fourfold.assistant.chat.answer_parser import AnswerParser, GrowingAnswer
from fourfold.assistant.chat.conversation import connect
from fourfold.assistant.chat.thinking import split_thought
from fourfold.assistant.grounding import BoxFormat
from tests.ui.scripted import Scripted


@pytest.mark.parametrize(
    ("text", "answer", "thought"),
    [
        ("<think>Is it? no, I see none.</think> Yes", "Yes", "Is it? no, I see none."),
        ("Is it? no.\n</think>\n\nYes", "Yes", "Is it? no."),  # the template opened it
        ("<think>Is it? no", "", "Is it? no"),  # cut off: no answer came
        ("<think>a</think>no<think>b</think>yes", "yes", "a\nb"),
        ("Yes. <think>or was it", "Yes.", "or was it"),
        ("<thinking>no</thinking>\n<answer>Yes</answer>", "Yes", "no"),
        ("<think>no</think><answer><|begin_of_box|>Yes<|end_of_box|></answer>", "Yes", "no"),
        ("[THINK]no[/THINK]Yes", "Yes", "no"),
        ("◁think▷no◁/think▷Yes", "Yes", "no"),
        ("<think></think>Yes", "Yes", ""),
        ("<answer>Yes</answer>", "Yes", None),
        (" I think yes, <b>really</b> ", " I think yes, <b>really</b> ", None),
        ("", "", None),
    ],
)
def test_the_answer_is_what_stands_behind_the_thought(text: str, answer: str, thought: str | None) -> None:
    assert split_thought(text) == (answer, thought)


def test_no_sign_of_a_thought_is_ever_shown_as_the_answer() -> None:
    text = "<think>The <b>ball</b> is round, so [it] rolls.</think>It rolls: <p>the ball</p> {<8><55><31><89>}."
    growing = GrowingAnswer()
    shown = [answer.plain for answer in growing.read(AIMessageChunk(sign) for sign in text)]
    assert shown[-1] == "It rolls: the ball."
    assert all("It rolls: the ball.".startswith(words.rstrip(".")) for words in shown), shown
    assert growing.thought == "The <b>ball</b> is round, so [it] rolls."
    assert growing.message.text == "It rolls: <p>the ball</p> {<8><55><31><89>}."


def test_a_thought_that_comes_beside_the_text_is_kept_beside_it() -> None:
    pieces = [AIMessageChunk("", additional_kwargs={"reasoning_content": part}) for part in ("Round ", "and red.")]
    growing = GrowingAnswer()
    list(growing.read(iter([*pieces, AIMessageChunk("A ball.")])))
    assert (growing.text, growing.thought) == ("A ball.", "Round and red.")
    assert growing.message.additional_kwargs["reasoning_content"] == "Round and red."


@pytest.mark.parametrize("streamed", [True, False])
def test_an_endpoint_may_keep_thoughts_apart(streamed: bool) -> None:
    server = Scripted().start()
    model = connect(server.url, "any")
    growing = GrowingAnswer()
    list(growing.read(model.stream("think apart") if streamed else iter([model.invoke("think apart")])))
    assert (growing.text, growing.thought) == ("It rolls.", "A ball is round.")
    server.shutdown()


def test_a_chain_reads_the_answer_behind_the_thought() -> None:
    said = '<think>{"bbox_2d": [1, 2, 3, 4]}?</think>[{"bbox_2d": [120, 300, 560, 800], "label": "dog"}]'
    answer = AnswerParser(box_format=BoxFormat.THOUSAND).parse(said)
    assert [phrase.phrase for phrase in answer.phrases] == ["dog"]
