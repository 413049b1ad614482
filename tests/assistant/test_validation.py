from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from pydantic import with_config

from fourfold.assistant.validation import FORBID_UNKNOWN, validated
from fourfold.prompts.errors import UserError


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class Part:
    rank: int = 1
    targets: tuple[str, ...] = ("a",)


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class Whole:
    steps: int
    rate: float = 1e-3
    part: Part = field(default_factory=Part)
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError("give no negative steps")


def test_plain_values_become_records() -> None:
    values = {"steps": 3, "rate": "3e-4", "part": {"targets": ["x", "y"]}, "weights": {"a": 1}}
    assert validated(Whole, values) == Whole(3, 3e-4, Part(1, ("x", "y")), {"a": 1.0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "^w: steps is missing$"),
        ({"steps": "x"}, "^w: steps: input should be a valid integer"),
        ({"steps": 1.5}, "^w: steps: "),
        ({"steps": 1, "part": {"r": 2}}, r"^w: part\.r is unknown$"),
        ({"steps": 1, "step": 2}, "^w: step is unknown$"),
        ({"steps": -1}, "^w: give no negative steps$"),
        ({"steps": 1, "part": {"targets": "x"}}, r"^w: part\.targets: input should be a valid list$"),
        ({"steps": 1, "part": {"targets": ["x", 3]}}, r"^w: part\.targets\[1\]: "),
        ({"steps": 1, "part": 3}, "^w: part: must be a mapping"),
        (3, "^w: must be a mapping"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(values: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        validated(Whole, values, "w")
    assert "\n" not in str(refused.value)
