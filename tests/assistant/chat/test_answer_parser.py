"""The parser at the end of a chain, fed with text cut anywhere."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk

from fourfold.assistant.chat.answer_parser import AnswerParser, GrowingAnswer
from fourfold.assistant.grounding import Box, Grounded, parse, parse_so_far

MARKS = """<p> </p> <delim> { } < > & {<1><2><3><4>} {<1><2><3> {<300><2><3><4>} {<a><b><c><d>} <5><6><7><8> 12 -3
    &lt;p&gt; a dog runs. {<1><2><3><4><delim><5><6><7><8>} <p>cat</p>"""
TEXTS = st.one_of(
    st.lists(st.sampled_from([*MARKS.split(), " "]), max_size=12).map("".join),
    st.lists(st.sampled_from(MARKS.split()), max_size=12).map(" ".join),
    st.text(max_size=40),
)
ANSWER = "A <p>dog</p> {<1><2><3><4>}<delim>{<5><6><7><8>} and a <p>cat</p> {<9><10><11><12>}, 3 in all."


def cut(text, places):
    places = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


@given(TEXTS, st.lists(st.integers(0, 1000), max_size=30))
def test_a_cut_stream_ends_as_the_whole_text_does(text, places):
    *_, last = [parse(""), *AnswerParser().transform(iter(cut(text, places)))]
    assert last == parse(text.replace("\0", ""))  # zero bytes are left out


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_answers_only_grow_and_show_no_markup(size):
    seen = list(AnswerParser().transform(ANSWER[i : i + size] for i in range(0, len(ANSWER), size)))
    whole = parse(ANSWER)
    for earlier, later in itertools.pairwise(seen):
        assert later.plain.startswith(earlier.plain)
        assert boxes(later)[: len(boxes(earlier))] == boxes(earlier)
    for answer in seen:
        assert not answer.malformed
        assert not set("<>{}") & set(answer.plain)
    assert seen[-1] == whole
    assert len(boxes(whole)) == 3
    assert any(len(boxes(answer)) == 2 for answer in seen)  # shown as they come, not all at the end


def boxes(answer):
    return [box for phrase in answer.phrases for box in phrase.boxes]


@given(st.lists(st.sampled_from(["dog ", "<p>cat</p> ", "{<1><2><3><4>} ", "{<5><6><7><8>}<delim>{<1><2><3><4>} "])))
def test_well_formed_answers_only_grow_at_any_cut(pieces):
    text = "it: " + "".join(pieces)
    states = [parse_so_far(text[:end]) for end in range(len(text) + 1)]
    for earlier, later in itertools.pairwise(states):
        assert later.plain.startswith(earlier.plain)
        assert boxes(later)[: len(boxes(earlier))] == boxes(earlier)
        assert not later.malformed


@given(TEXTS, st.integers(0, 60))
def test_no_beginning_raises(text, end):
    assert isinstance(parse_so_far(text[:end]), Grounded)


@given(TEXTS, TEXTS)
def test_only_the_end_of_a_text_is_held_back(start, end):
    """What is held back does not depend on how much text stands before it."""
    for near, far in [(start + "x" * 50 + end, start + "x" * 150 + end), ("x " + end, "x" * 101 + " " + end)]:
        near_shown, far_shown = parse_so_far(near), parse_so_far(far)
        assert far_shown.plain.replace("x" * 100, "", 1) == near_shown.plain
        assert boxes(far_shown) == boxes(near_shown)
        assert len(far_shown.malformed) == len(near_shown.malformed)


@pytest.mark.timeout(60)  # a second if it is linear, hours if it is quadratic
def test_holding_back_is_linear_in_the_length():
    for piece in ["{", "{<", "{<d", "{<1>", "<1>", "<delim", "{<delim", "&lt;", "<"]:
        parse_so_far(piece * 50_000 + "x")
        parse_so_far("{<" + piece.strip("{") * 50_000 + "x")


def test_four_bare_numbers_and_a_count_come_whole():
    assert [a.plain for a in AnswerParser().transform(iter(["1", ", 2", ", 3, ", "4"]))][-1] == ""
    assert parse_so_far("1, 2, 3").plain == ""
    assert [a.plain for a in AnswerParser().transform(iter(["1", "2"]))] == ["", "12"]


def test_messages_of_a_chain():
    answer = AnswerParser().invoke(AIMessage("<p>dog</p> {<1><2><3><4>}"))
    assert answer.phrases[0].boxes == (Box(0.01, 0.02, 0.03, 0.04),)
    chunks = [AIMessageChunk("{<1><2"), AIMessageChunk(""), AIMessageChunk("><3><4>}")]
    assert [len(boxes(a)) for a in AnswerParser().transform(iter(chunks))] == [0, 1]
    assert list(AnswerParser().transform(iter(["{<1><2"])))[-1].malformed == ("{<1><2",)


async def test_async():
    async def chunks():
        for character in ANSWER:
            yield character

    seen = [answer async for answer in AnswerParser().atransform(chunks())]
    assert seen == list(AnswerParser().transform(iter(ANSWER)))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A ball {<10><20", "A ball"),
        ("A ball <", "A ball"),
        ("A ball <p>", "A ball"),
        ("A ball {<1><2><3><4>}<delim>{<5", "A ball {<1><2><3><4>}"),
        ("A ball {<1><2><3><4>}<del", "A ball {<1><2><3><4>}"),
        ("<p>A ball</p> {<1><2><3><4>} and <p>a b", "<p>A ball</p> {<1><2><3><4>} and <p>a b"),
        ("at 3", "at 3"),
    ],
)
def test_what_ended_early_is_kept_without_half_a_box(text, kept):
    growing = GrowingAnswer()
    next(growing.read(iter([text, "more"])))  # and nobody reads on
    shown = parse(growing.kept)
    assert growing.kept == kept
    assert not shown.malformed and not any(sign in shown.plain for sign in "<>{}")


def test_halves_of_characters_and_zero_bytes_are_mended_while_they_arrive():
    pieces = ["a \ud83d", "\ude00", " b\0 \udfff", " \ud83d"]
    *_, last = GrowingAnswer().read(iter(pieces))
    assert last.plain == "a \U0001f600 b \ufffd \ufffd"
