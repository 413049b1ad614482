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
