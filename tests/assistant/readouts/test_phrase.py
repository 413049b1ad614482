"""What phrases point at."""

import pytest

from fourfold.assistant.readouts import Target, read_phrase
from fourfold.assistant.readouts.phrase import same_noun

KNOWN = {"dog", "ball", "man", "shirt", "dining table", "person", "woman", "bicycle", "circle"}


def noun_of(word: str) -> str | None:
    return same_noun(word, KNOWN.__contains__)


@pytest.mark.parametrize(
    ("phrase", "target"),
    [
        ("a dog", Target("dog")),
        ("The  DOG.", Target("dog")),
        ("the red ball", Target("ball", ("red",))),
        ("a grey dog", Target("dog", ("gray",))),
        ("black and white dogs", Target("dog", ("black", "white"), several=True)),
        ("two dogs", Target("dog", several=True)),
        ("the man on the left", Target("man", side="left")),
        ("the left man", Target("man", side="left")),
        ("dog in the middle of the picture", Target("dog", side="middle")),
        ("the ball at the bottom", Target("ball", side="bottom")),
        ("the dog next to the red ball", Target("dog", relation="near", other=Target("ball", ("red",)))),
        ("dog to the left of the ball", Target("dog", relation="left of", other=Target("ball"))),
        ("a man in a blue shirt", Target("man", relation="near", other=Target("shirt", ("blue",)))),
        ("the dog on top of the dining table", Target("dog", relation="above", other=Target("dining table"))),
        ("dog under the zebra", Target("dog")),
        ("a dining table", Target("dining table")),
        ("a group of people", Target("person", several=True)),
        ("a biker", Target("man")),
        ("the lady", Target("woman")),
        ("bikes", Target("bicycle", several=True)),
        ("zebra", None),
        ("", None),
        ("on the left", None),
        ("x" * 10_000, None),
        ("日本", None),
    ],
)
def test_a_phrase_is_a_noun_with_colours_a_side_and_a_neighbour(phrase: str, target: Target | None) -> None:
    read = read_phrase(phrase, noun_of)
    if phrase == "a biker":  # some person
        assert read is not None and read.noun in {"man", "person"}
    else:
        assert read == target


def test_names_of_what_was_shown_go_first_the_longest_of_all() -> None:
    concepts = ("Rex", "Rex the dog", "our bracket")
    assert read_phrase("where is rex the dog", noun_of, concepts) == Target("Rex the dog")
    assert read_phrase("Rex next to the ball", noun_of, concepts) == Target(
        "Rex", relation="near", other=Target("ball")
    )
    assert read_phrase("our bracket on the left", noun_of, concepts) == Target("our bracket", side="left")
    assert read_phrase("the dog", noun_of, concepts) == Target("dog")
    assert read_phrase("Rexford", noun_of, concepts) is None
