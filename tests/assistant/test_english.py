import pytest

from fourfold.assistant.english import colour_of, head_noun, number_of, plural, related, singular, with_article


def test_words():
    assert head_noun("a group of young people") == "person"
    assert head_noun("a man in a red shirt") == "man"
    assert head_noun("the red one") is None and head_noun("pink") is None
    assert singular("children") == "child" and plural("dog") == "dogs" and singular("grass") == "grass"
    assert with_article("umbrella") == "an umbrella" and with_article("water") == "water"
    assert colour_of("a red shirt") == "red" and colour_of("a red and white shirt") is None
    assert number_of("two small dogs") == 2 and number_of("dogs") is None and number_of("a dog") == 1
    assert "guy" in related("man") and "woman" not in related("man")
    assert "puppy" in related("dog")


NOUNS = {
    "bus": "buses", "movie": "movies", "tie": "ties", "cookie": "cookies", "potato": "potatoes", "hero": "heroes",
    "photo": "photos", "box": "boxes", "dish": "dishes", "prize": "prizes", "pie": "pies", "puppy": "puppies",
    "boy": "boys", "lens": "lenses", "headscarf": "headscarves", "wife": "wives", "child": "children",
    "person": "people", "woman": "women", "tooth": "teeth", "goose": "geese", "shoe": "shoes",
}  # fmt: skip


@pytest.mark.parametrize(("one", "many"), NOUNS.items())
def test_singular_and_plural(one: str, many: str) -> None:
    assert (singular(many), plural(one), singular(one)) == (one, many, one)


@pytest.mark.parametrize("word", ["glasses", "jeans", "trousers", "sheep"])
def test_plural_only_and_the_same_in_both(word: str) -> None:
    assert singular(word) == plural(word) == word


@pytest.mark.parametrize(
    "word",
    [
        "is",
        "his",
        "has",
        "this",
        "was",
        "them",
        "grass",
        "dress",
        "bus",
        "tennis",
        "gas",
        "canvas",
        "christmas",
        "various",
    ],
)
def test_what_is_no_plural_stays(word: str) -> None:
    assert singular(word) == word


@pytest.mark.parametrize(
    "phrase",
    ["an hour", "an honest man", "a unicorn", "a uniform", "a utensil", "a one-way sign", "an umbrella", "a dog"],
)
def test_the_article_goes_by_sound(phrase: str) -> None:
    assert with_article(phrase.partition(" ")[2]) == phrase
