"""How likely an answer is right, of the probability that was given to it."""

import math

from fourfold.assistant.checkpoints.card import MeasuredCard
from fourfold.serving.engine.requests import Completion
from fourfold.serving.looking.kinds import Kind
from fourfold.serving.looking.presence import log_odds, sigmoid

SURE = 0.7
"""Chance of being right from which an answer is said without "Not sure"."""
_LIKE = {Kind.ACTION: Kind.WHAT, Kind.OTHER: Kind.WHAT}  # kinds that were not measured by themselves


def calibrated(probability: float, fitted: tuple[float, float]) -> float:
    """A probability, calibrated: `fitted` are slope and bias of its log-odds (Platt 1999)."""
    return sigmoid(fitted[0] * log_odds(probability) + fitted[1])


def certainty(card: MeasuredCard, kind: Kind, completion: Completion) -> float:
    """Chance, 0..1, that an answer to this kind of question is right; 0.5 where nothing was measured.

    A logistic regression on the log-odds of the answer's probability, its end included (Platt 1999).
    """
    fitted = card.certainty.get(kind) or card.certainty.get(_LIKE.get(kind, ""))
    if fitted is None or not completion.logprobs:
        return 0.5
    odds = log_odds_of(sum(token.logprob for token in completion.logprobs))
    return sigmoid(fitted[0] * odds + fitted[1])


def log_odds_of(logprob: float) -> float:
    """log(p / (1 - p)) of p = exp(logprob); finite for what is certain, too."""
    return logprob - math.log(-math.expm1(min(logprob, -1e-4)))
