"""Pictures by their numbers, as the page and the server read them."""

import pytest

from fourfold.assistant.chat.picture_numbers import named_pictures


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("what is in picture 2?", [(1, "picture 2")]),
        ("what is in the third image?", [(2, "the third image")]),
        ("describe photo #4", [(3, "photo #4")]),
        ("picture number 1, and image two", [(0, "picture number 1"), (1, "image two")]),
        ("the last pic", [(4, "the last pic")]),
        ("is there a dog in picture 9?", [(8, "picture 9")]),
        ("how many pictures are on the wall?", []),
        ("what is in the picture?", []),
    ],
)
def test_pictures_are_named_by_number_and_by_order(words: str, named: list[tuple[int, str]]) -> None:
    assert [(one.index, words[one.start : one.end]) for one in named_pictures(words, 5)] == named
