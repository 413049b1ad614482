"""How many there are of a thing, by the detector, and how likely that is right."""

from fourfold.serving.looking.certainty import calibrated
from fourfold.serving.looking.eyes import Eyes

# Chance that there is one more than was found, again one more, and so on: beside things, and beside "at least" so many.
# Fitted on 119 photos of COCO, tried on 97 of VOC: docs/decisions.md. Beside none, from how often a thing that is
# there is not found at all (0.30 of 519), where half the questions are about things that are there.
_MORE_THAN_NONE, _MORE, _MORE_THAN_AT_LEAST = 0.25, 0.15, 0.5
MOST = 60
"""Things that are told apart."""

# Log-odds that the number found is right: those of its own probability times the first, plus the second. Fitted on 110
# questions about held-out photos, whose captions say how many there are.
_RIGHT = (0.73, 0.63)


def chance_of_number(eyes: Eyes, noun: str, number: int) -> float | None:
    """Chance that there are so many; None where the detector cannot tell."""
    chances = chances_of(eyes, noun)
    if chances is None or number >= MOST:
        return None
    return calibrated(chances[number], _RIGHT)


def chances_of(eyes: Eyes, noun: str) -> list[float] | None:
    """Probability of each number from 0 on, of a noun; together 1. None where the detector does not know the noun."""
    count = eyes.counted(noun)
    boxes = eyes.detected(noun)
    if count is None or boxes is None:
        return None
    more = _MORE_THAN_NONE if not boxes else _MORE_THAN_AT_LEAST if count.at_least else _MORE
    found = [1.0]  # of how many boxes are right
    for _, chance in boxes[: MOST - 1]:
        found = [
            wrong * (1 - chance) + right * chance for wrong, right in zip([*found, 0.0], [0.0, *found], strict=True)
        ]
    chances = [0.0] * MOST
    before = 0.0  # geometric in what was missed
    for number in range(MOST):
        before = before * more + (found[number] if number < len(found) else 0.0) * (1 - more)
        chances[number] = before
    chances[-1] += max(1 - sum(chances), 0.0)
    return chances
