"""What becomes of an answer is decided by a rule that can be told."""

import json
from typing import Any

import pytest

from benchmarks.first_minutes import QUESTIONS, verdict

BOXES = {"boxes": [[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]]}
BOTH = "Here are the <p>dogs</p> {<10><10><40><40>}<delim>{<50><50><90><90>}."


@pytest.mark.parametrize(
    ("truth", "answer", "right"),
    [
        ({"words": ["red"]}, "Red.", "right"),
        ({"words": ["red"]}, "Not sure – perhaps red.", "right, unsure"),
        ({"words": ["red"]}, "Not sure – perhaps blue.", "unsure"),
        ({"words": ["red"]}, "I cannot tell.", "declined"),
        ({"words": ["red"]}, "A bored man.", "wrong"),
        ({"words": ["first", "1"]}, "I can only look at one picture at a time. Ask about picture 1 or 2.", "declined"),
        (BOXES, BOTH, "right"),
        (BOXES, BOTH.replace("<delim>{<50><50><90><90>}", ""), "wrong"),
        (BOXES, BOTH.replace("<90>}", "<90>}<delim>{<0><0><9><9>}"), "wrong"),
        (BOXES, "I cannot point at the dogs.", "declined"),
        ({"absent": True}, "I see no car.", "right"),
        ({"absent": True}, "Black.", "wrong"),
        ({"absent": True}, "I see no car {<0><0><99><99>}", "wrong"),
        ({"talk": "greeting"}, "Hello! I am a small model.", "right"),
        ({"talk": "greeting"}, "A man in a field.", "wrong"),
        ({"talk": "paris"}, "It is Paris.", "right"),
        ({"talk": "paris"}, "I am a small model that looks at pictures.", "declined"),
        ({"things": ["dog", "snow"]}, "A dog is running through the snow.", "right"),
        ({"things": ["dog", "snow"]}, "A dog is running with a cat.", "wrong"),
        ({"things": ["dog", "snow"]}, "Not sure – perhaps a cat is running.", "unsure"),
    ],
)
def test_verdicts(truth: dict[str, Any], answer: str, right: str) -> None:
    assert verdict(truth, answer) == right


def test_both_sets_have_54_questions_with_a_truth() -> None:
    questions = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    for name in "ab":
        mine = [one for one in questions if one["id"].startswith(name)]
        assert len(mine) == 54
        assert all({"words", "boxes", "absent", "talk", "things"} & set(one) for one in mine)
    assert len({one["id"] for one in questions}) == 108
