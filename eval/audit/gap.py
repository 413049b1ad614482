"""Why a reported number and the log's own answers differ: rule, missing items, parsing, noise, and what is left."""

from dataclasses import dataclass
from typing import Any

from fourfold.eval.audit.rescore import Rescored
from fourfold.eval.benchmarks import RuleScore
from fourfold.eval.statistics import Z95
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class Part:
    """A part of the gap in points, and how it was found; parts add up to the gap."""

    name: str
    points: float
    why: str


@dataclass(frozen=True)
class Gap:
    """From the log's score under the headline's rule to the reported number."""

    reported: float
    scored: float
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """As one object."""
        parts = [{"part": one.name, "points": one.points, "why": one.why} for one in self.parts]
        return {"reported": self.reported, "scored": self.scored, "gap": self.reported - self.scored, "parts": parts}


def explain_gap(audited: Rescored, reported: float) -> Gap:
    """Take the gap apart, one part after the other, each from what the earlier ones left.

    Missing items: what leaving them out instead of counting them as wrong changes, if that comes nearer. Rule: what the
    rule whose score is nearest changes. Parsing: the most that unread answers can change, if as many of them were
    right as of the others. Noise: what fits into the 95 % interval. The rest is what no log tells: the prompt,
    decoding, another checkpoint or data.

    Args:
        audited: the log, scored.
        reported: in the same unit, percent.

    Raises:
        UserError: a number that is no percentage, or looks like a share.
    """
    if not 0 <= reported <= 100:
        raise UserError(f"--reported is percent, 0 to 100, not {reported:g}")
    if 0 < reported < 1 and audited.scores[0].headline.value >= 1:
        raise UserError(f"--reported is percent; if {reported:g} is a share, say --reported {100 * reported:g}")
    headline = audited.scores[0].headline.value
    parts: list[Part] = []
    left = reported - headline
    # Which treatment of missing items and which rule come nearest, missing items being the simpler reason.
    ways = [(score, False) for score in audited.scores]
    if audited.missing:
        ways += [(score, True) for score in audited.scores]

    def value(way: tuple[RuleScore, bool]) -> float:
        score, without = way
        return _of_answered(audited, score) if without else score.headline.value

    best = min(ways, key=lambda way: (round(abs(reported - value(way)), 9), way[1]))
    if abs(reported - value(best)) >= abs(left) - 1e-9:
        best = (audited.scores[0], False)
    score, without = best
    named = f"{len(audited.missing)} of {len(audited.samples)} questions have no answer"
    step = (_of_answered(audited, audited.scores[0]) - headline) if without else 0.0
    parts.append(
        Part("missing items", step, f"{named}, and seem left out" if without else f"{named}, counted as wrong")
        if audited.missing
        else Part("missing items", 0.0, "every question has an answer")
    )
    changed = value(best) - headline - step
    same = score.rule == audited.scores[0].rule
    why = "no other rule comes nearer" if same else f"{score.rule} gives {value(best):.2f}, the nearest of all rules"
    parts.append(Part("rule", changed, why))
    left = reported - value(best)
    unread, answered = score.parse_failures, max(len(audited.answers), 1)
    most = score.headline.value * unread / max(answered - unread, 1)
    step = min(max(left, 0.0), most)
    parts.append(
        Part("parsing", step, f"{unread} answers were not read under {score.rule}; worth at most {most:.2f} points")
        if unread
        else Part("parsing", 0.0, f"every answer was read under {score.rule}")
    )
    left -= step
    error = score.headline.standard_error or 0.0
    step = min(max(left, -Z95 * error), Z95 * error)
    parts.append(Part("noise", step, f"the 95 % interval of {score.rule} is ± {Z95 * error:.2f}, clustered by image"))
    left -= step
    parts.append(Part("prompt and the rest", left, _prompt(audited, left)))
    return Gap(reported, headline, tuple(parts))


def _of_answered(audited: Rescored, score: RuleScore) -> float:
    """The score over the answered questions alone."""
    values = [value for key, value in score.by_sample.items() if key in audited.answers]
    return 100 * sum(values) / len(values)


def _prompt(audited: Rescored, left: float) -> str:
    prompts = [item.prompt for item in audited.log.items if item.prompt]
    if abs(left) < 1e-9:
        return "nothing is left"
    reasons = "prompt, decoding, another checkpoint or other data: no log of one run can tell these apart"
    if not prompts:
        return f"{reasons}; the log does not say what was asked"
    return f"{reasons}; asked was, at the end: {prompts[0].strip().splitlines()[-1][-90:]!r}"
