"""Nouns, and the classes that they mean."""

import time

import pytest

from fourfold.assistant.tools.coco import CLASSES, class_of


@pytest.mark.parametrize(
    ("noun", "label"),
    [
        ("dogs", "dog"),
        ("a puppy", "dog"),
        ("the big brown dog on the left", "dog"),
        ("bikes", "bicycle"),
        ("sofa", "couch"),
        ("Children", "person"),
        ("group of people", "person"),
        ("cup of coffee", "cup"),
        ("hot dog", "hot dog"),
        ("wine glasses", "wine glass"),
        ("tennis racquet", "tennis racket"),
        ("man in a red shirt next to a car", "person"),
        ("skis", "skis"),
        ("scissors", "scissors"),
    ],
)
def test_near_synonyms_and_plurals_mean_a_class(noun: str, label: str) -> None:
    assert class_of(noun) == label


@pytest.mark.parametrize(
    "noun", ["unicorn", "animal", "vehicle", "dog house", "glasses", "shirt", "crowd", "", "12", "🦄"]
)
def test_what_no_class_stands_for_is_unknown(noun: str) -> None:
    assert class_of(noun) is None


def test_every_class_means_itself() -> None:
    assert len(CLASSES) == 80
    assert {name: class_of(name) for name in CLASSES.values()} == {name: name for name in CLASSES.values()}


def test_a_noun_of_ten_thousand_characters_is_unknown_at_once() -> None:
    start = time.thread_time()
    assert class_of("dog " * 2500) is None
    assert class_of("s" * 10_000) is None
    assert time.thread_time() - start < 0.1
