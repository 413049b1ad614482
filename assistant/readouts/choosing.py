"""Which of several boxes a phrase means: the one on the left, the one next to the ball."""

from collections.abc import Sequence

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts.phrase import Target

Candidate = tuple[Box, float]
"""A box and its confidence."""
_WRONG_SIDE = 0.25  # what the confidence of a box on the wrong side is worth


def choose(
    candidates: Sequence[Candidate], target: Target, around: Box | None = None, several: bool = False
) -> list[Candidate]:
    """Candidates in the order in which they fit a phrase.

    Args:
        candidates: at least one, the surest first.
        target: with a side or a relation.
        around: the box of the thing that the phrase names beside; None where it names none.
        several: all that fit are wanted, so those on the wrong side are left out while others remain.
    """
    fits = [(_fit(box, target, around, candidates), box, chance) for box, chance in candidates]
    if several:
        fits = [one for one in fits if one[0] >= 0.5] or fits
        return [(box, chance) for _, box, chance in sorted(fits, key=lambda one: -one[2])]
    return [(box, chance) for fit, box, chance in sorted(fits, key=lambda one: -one[0] * (one[2] + 0.1))]


def _fit(box: Box, target: Target, around: Box | None, candidates: Sequence[Candidate]) -> float:
    """How well a box fits the words beside the noun, 0..1."""
    across, down = _centre(box)
    fit = 1.0
    if target.side:
        # Sides are meant among those that could be meant: the left one of two on the right is "on the left".
        others = [_centre(other) for other, _ in candidates if other != box]
        place, rest = (
            (across, [x for x, _ in others]) if target.side in ("left", "right") else (down, [y for _, y in others])
        )
        if target.side == "middle":
            place, rest = abs(across - 0.5), [abs(x - 0.5) for x, _ in others]
        sign = -1 if target.side in ("right", "bottom") else 1
        beaten = sum(sign * place < sign * other for other in rest)
        fit *= _WRONG_SIDE + (1 - _WRONG_SIDE) * ((beaten + 1) / (len(rest) + 1))
    if around is not None and target.relation:
        x, y = _centre(around)
        if target.relation == "near":
            fit *= 1 / (1 + 4 * _gap(box, around))
        else:
            right = {
                "above": down < y,
                "below": down > y,
                "left of": across < x,
                "right of": across > x,
            }[target.relation]
            fit *= (1 if right else _WRONG_SIDE) / (1 + _gap(box, around))
    return fit


def _centre(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def _gap(one: Box, other: Box) -> float:
    """Distance between two boxes in parts of the picture, 0 where they touch; their centres count a little."""
    across = max(one.x1, other.x1) - min(one.x2, other.x2)
    down = max(one.y1, other.y1) - min(one.y2, other.y2)
    (x, y), (u, v) = _centre(one), _centre(other)
    return float((max(across, 0) ** 2 + max(down, 0) ** 2) ** 0.5 + 0.3 * ((x - u) ** 2 + (y - v) ** 2) ** 0.5)
