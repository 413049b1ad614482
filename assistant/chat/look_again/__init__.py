"""Looking again: a model's answer is checked, looked at closer and compared before it is believed."""

from fourfold.assistant.chat.look_again.claims import Claim, claims_of, subject, without
from fourfold.assistant.chat.look_again.client import (
    Ask,
    Budget,
    BudgetedClient,
    Step,
    Stopped,
    ask_with,
    crop,
    with_images,
    yes_or_no,
)
from fourfold.assistant.chat.look_again.loop import LookedAgain, look_again
from fourfold.assistant.chat.look_again.second_answer import Closer, TextLine, look_closer, read_text, with_text
from fourfold.assistant.chat.look_again.verdicts import (
    Agreement,
    Checked,
    See,
    Sighting,
    Verdict,
    agree,
    check,
    number_in,
)

__all__ = [
    "Agreement",
    "Ask",
    "Budget",
    "BudgetedClient",
    "Checked",
    "Claim",
    "Closer",
    "LookedAgain",
    "See",
    "Sighting",
    "Step",
    "Stopped",
    "TextLine",
    "Verdict",
    "agree",
    "ask_with",
    "check",
    "claims_of",
    "crop",
    "look_again",
    "look_closer",
    "number_in",
    "read_text",
    "subject",
    "with_images",
    "with_text",
    "without",
    "yes_or_no",
]
