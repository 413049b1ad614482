import pytest

from fourfold.eval.scorers.answers import agreement, score_answers
from fourfold.eval.tasks.held_out import held_out_groups

DOG = "<p>a dog</p> {<10><10><50><50>}"


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("red", "Red.", 1),
        ("red", "dark red", 0),
        ("a washer", "washer", 1),
        ("A man rides a red bike.", "a man rides a blue bike", 5 / 6),
        ("A man rides a red bike.", "", 0),
        ("{<10><10><50><50>}", "{<12><10><50><50>}", 1),
        ("{<10><10><50><50>}", "{<60><60><90><90>}", 0),
        ("{<10><10><50><50>}", "{<10><10><50><50>}<delim>{<60><60><90><90>}", 2 / 3),
        ("{<10><10><50><50>}", "on the left", 0),
        ("on the left", "{<10><10><50><50>}", 0),
        (f"{DOG} runs.", f"{DOG} sits.", 1),
        (f"{DOG} runs.", "<p>a cat</p> {<10><10><50><50>} runs.", 0),
        ("none", "none", 1),
    ],
)
def test_agreement_with_a_correction(reference, answer, expected):
    assert agreement(reference, answer) == pytest.approx(expected)


def test_scores_of_right_and_empty_answers_to_held_out_questions():
    for group in held_out_groups("scenes", 6):
        turns = [sample.turns[0] for sample in group.held_out]
        right = score_answers(group.kind, turns, [turn.answer for turn in turns])
        wrong = score_answers(group.kind, turns, [""] * len(turns))
        assert len(right) == len(turns) and all(0 <= score <= 1 for score in right + wrong)
        if group.kind != "caption":  # one reference an image, with its own document frequencies
            assert sum(right) >= 0.9 * len(right), group.kind
        assert sum(wrong) == sum(bool(turn.facts.get("absent")) for turn in turns), group.kind
