"""Predicates that the eyes can tell: whether a thing is in the picture."""

from fourfold.assistant.chat.intent import Wants, intent_of
from fourfold.serving.looking.answers import names_only
from fourfold.serving.looking.eyes import SHOWN, Eyes
from fourfold.serving.looking.presence import combined


def presence_of(eyes: Eyes, words: str, model: float) -> tuple[float, str] | None:
    """Probability that what a question asks for is in the picture, and who says so; None for any other question.

    Args:
        eyes: on the picture.
        words: of the question.
        model: the language model's probability of yes, without a temperature: the weights that combine it with the
            read-out's were fitted for that.

    Raises:
        UserError: the picture cannot be looked at.
    """
    intent = intent_of(words)
    if intent is None or intent.wants is not Wants.PRESENCE:
        return None
    finding = eyes.find(intent.phrase)
    if finding is None:
        return None
    if finding.source == SHOWN:
        return finding.presence, SHOWN
    if not names_only(intent.phrase, finding.noun):  # of "a dog in the water" the read-out knows the dog alone
        return None
    return combined(finding.presence, model), "read-out + model"
