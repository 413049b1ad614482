from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from fourfold.serving.engine.sampling.detokenizer import IncrementalDetokenizer, TokenBytes
from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def run(ids: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], IncrementalDetokenizer]:
    stream = IncrementalDetokenizer(TOKENIZER, stops)
    pieces = [stream.push(token) for token in ids]
    return [*pieces, stream.finish()], stream


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
@settings(max_examples=200, deadline=None)
def test_pieces_join_to_the_decoded_text_for_any_tokens(ids: list[int]) -> None:
    pieces, stream = run(ids)
    assert "".join(pieces) == stream.text == TOKENIZER.decode(ids, skip_special_tokens=True)


@given(st.text(max_size=20))
@settings(deadline=None)
def test_no_piece_of_valid_text_holds_half_a_character(text: str) -> None:
    pieces, _ = run(encode(text))
    assert "".join(pieces) == text
    assert "�" in text or all("�" not in piece for piece in pieces)


def test_a_character_of_several_tokens_comes_whole() -> None:
    ids = encode("a🙂b")
    assert len(ids) > 3  # the emoji is bytes for this tokenizer
    pieces, _ = run(ids)
    assert [piece for piece in pieces if piece] == ["a", "🙂", "b"]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("the car is red. yes no", (" is",), "the car"),
        ("the car is red. yes no", ("car is red. y",), "the "),  # across many tokens
        ("the car is red", ("red", "car"), "the "),  # the first in the text, not in the list
        ("the car is red", ("he car is", "a"), "the c"),  # the first to be complete
        ("the car is red", ("the",), ""),
        ("the car is red", ("green",), "the car is red"),
        ("aab", ("ab",), "a"),  # a match that begins inside a false start
        ("the car is r", ("red",), "the car is r"),  # an open stop string is text after all
    ],
)
def test_text_ends_before_the_first_stop_string(text: str, stops: tuple[str, ...], expected: str) -> None:
    pieces, stream = run(encode(text), stops)
    assert "".join(pieces) == stream.text == expected
    assert stream.stopped == any(stop in text for stop in stops)
    assert stream.stop_reason is None or text.startswith(expected + stream.stop_reason)


@given(
    st.text("abc", min_size=1, max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3)
)
@settings(max_examples=300, deadline=None)
def test_nothing_of_a_stop_string_is_ever_shown(text: str, stops: list[str]) -> None:
    pieces, stream = run(encode(text), tuple(stops))
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert "".join(pieces) == stream.text == (text[: min(ends)[1]] if ends else text)


def together(tokenizer: Any, ids: list[int]) -> bytes:
    token_bytes = TokenBytes(tokenizer)
    return b"".join(token_bytes(token, first=place == 0) for place, token in enumerate(ids))


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
@settings(max_examples=200, deadline=None)
def test_bytes_of_any_tokens_together_are_the_text(ids: list[int]) -> None:
    expected = TOKENIZER.decode(ids, skip_special_tokens=True)
    assert together(TOKENIZER, ids).decode("utf-8", "replace") == expected


def sentencepiece_tokenizer() -> Any:
    """Small, with LLaMA's way of writing: spaces as a sign, bytes as tokens of their own."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁ball", "s", "é", "▁▁"]
    backend = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


SENTENCEPIECE = sentencepiece_tokenizer()


@example([3 + 0x20, 260])  # a space as a byte of its own
@given(st.lists(st.integers(0, len(SENTENCEPIECE) - 1), max_size=12))
@settings(max_examples=300, deadline=None)
def test_bytes_of_sentencepiece_tokens_together_are_the_text(ids: list[int]) -> None:
    # Special tokens first in the answer are a case of their own: what follows them is not at the text's start.
    ids = [token for token in ids if token > 2]
    text = SENTENCEPIECE.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    joined = together(SENTENCEPIECE, ids)
    if "\ufffd" in text:  # transformers shows each byte that is no character, Python each run of them
        return
    assert joined.decode() == text
