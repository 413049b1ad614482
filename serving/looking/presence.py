"""Whether something is there: the read-out and the language model together, since they err differently."""

import math
from collections.abc import Sequence

# Log-odds of "it is there" = bias + read-out's log-odds * first weight + model's log-odds * second weight.
# From a logistic regression on 184 questions about 81 photos of the training split that the default language model was
# never shown (`training.data.calibration`): 1.2, 1.4, 0.7. Taken back to round numbers, since the read-outs had seen
# these photos: in that direction the Brier score is flat. docs/looking.md has the figures.
BIAS, READOUT_WEIGHT, MODEL_WEIGHT = 0.5, 0.9, 0.6
_CERTAIN = 1e-4  # no single witness is believed beyond this


def combined(readout: float, model: float) -> float:
    """Probability that a thing is there.

    Args:
        readout: calibrated presence of the thing's read-out, 0..1.
        model: the language model's probability of "yes" against "no", 0..1.
    """
    return sigmoid(BIAS + READOUT_WEIGHT * log_odds(readout) + MODEL_WEIGHT * log_odds(model))


def yes_probability(likelihoods: Sequence[float]) -> float:
    """Of mean log-likelihoods of "yes" and "no" (in this order) the probability of "yes" against "no"."""
    yes, no = likelihoods
    return sigmoid(yes - no)


def log_odds(probability: float) -> float:
    """Finite for 0 and 1 as well."""
    inside = min(max(probability, _CERTAIN), 1 - _CERTAIN)
    return math.log(inside / (1 - inside))


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), for any finite value."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
