"""Rules of options, yes-no and short answers beside lmms-eval's and VLMEvalKit's own code."""

import pytest

from fourfold.eval.scorers.choice import READERS
from fourfold.eval.scorers.short_answer import edit_distance
from tests.eval.scorers.agreement import OPTIONS, RULES, disagreements, strings


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_agrees_with_an_independent_implementation(rule: str) -> None:
    assert disagreements(rule, strings(200, seed=1)) == []


def test_the_drawn_strings_tell_rules_apart() -> None:
    texts = strings(2000)
    read = {name: [reader(text, OPTIONS) for text in texts] for name, reader in READERS.items()}
    for name, letters in read.items():
        assert set(letters) - {"E"} == {None, *OPTIONS}, name  # lmms-eval looks for five letters
        assert all(letters != other for twin, other in read.items() if twin != name)


def test_edit_distance_is_a_metric_on_known_words() -> None:
    known = {("kitten", "sitting"): 3, ("", "abc"): 3, ("flaw", "lawn"): 2, ("same", "same"): 0, ("ab", "ba"): 2}
    for (first, second), steps in known.items():
        assert edit_distance(first, second) == edit_distance(second, first) == steps
