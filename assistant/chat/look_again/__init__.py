"""Looking again: a model's answer is checked, looked at closer and compared before it is believed."""

from fourfold.assistant.chat.look_again.agreement import Agreement, agree
from fourfold.assistant.chat.look_again.asking import Ask, Budget, BudgetedClient, Step, Stopped, ask_with, with_images
from fourfold.assistant.chat.look_again.claims import Claim, claims_of, subject, without
from fourfold.assistant.chat.look_again.loop import LookedAgain, look_again
from fourfold.assistant.chat.look_again.reading import TextLine, read_text, with_text
from fourfold.assistant.chat.look_again.verdicts import Checked, Verdict, check
from fourfold.assistant.chat.look_again.zoom import Closer, look_closer

__all__ = [
    "Agreement",
    "Ask",
    "Budget",
    "BudgetedClient",
    "Checked",
    "Claim",
    "Closer",
    "LookedAgain",
    "Step",
    "Stopped",
    "TextLine",
    "Verdict",
    "agree",
    "ask_with",
    "check",
    "claims_of",
    "look_again",
    "look_closer",
    "read_text",
    "subject",
    "with_images",
    "with_text",
    "without",
]
