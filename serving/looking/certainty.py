"""How likely an answer is right, of the probability that was given to it."""

import math

from fourfold.assistant.checkpoints.card import MeasuredCard
from fourfold.serving.engine.requests import Completion
from fourfold.serving.looking.kinds import Kind

SURE = 0.7
"""Chance of being right from which an answer is said without "Not sure"."""
_LIKE = {Kind.ACTION: Kind.WHAT, Kind.OTHER: Kind.WHAT}  # kinds that were not measured by themselves


def calibrated(probability: float, fitted: tuple[float, float]) -> float:
    """A probability, calibrated: `fitted` are slope and bias of its log-odds (Platt 1999)."""
    inside = min(max(probability, 1e-4), 1 - 1e-4)
    return _sigmoid(fitted[0] * math.log(inside / (1 - inside)) + fitted[1])


def certainty(card: MeasuredCard, kind: Kind, completion: Completion) -> float:
    """Chance, 0..1, that an answer to this kind of question is right; 0.5 where nothing was measured.

    A logistic regression on the log-odds of the answer's probability, its end included (Platt 1999).
    """
    fitted = card.certainty.get(kind) or card.certainty.get(_LIKE.get(kind, ""))
    if fitted is None or not completion.logprobs:
        return 0.5
    odds = log_odds_of(sum(token.logprob for token in completion.logprobs))
    return _sigmoid(fitted[0] * odds + fitted[1])


def log_odds_of(logprob: float) -> float:
    """log(p / (1 - p)) of p = exp(logprob); finite for what is certain, too."""
    return logprob - math.log(-math.expm1(min(logprob, -1e-4)))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(min(value, 30.0), -30.0)))
