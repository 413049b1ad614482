"""The loop: eyes are believed before the language model guesses where, how many and whether."""

from fourfold.serving.looking.claim import EYES, Claim
from fourfold.serving.looking.looking import Looked, Looking, eyes_revision

__all__ = ["EYES", "Claim", "Looked", "Looking", "eyes_revision"]
