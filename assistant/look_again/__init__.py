"""Looking again: a model's answer is checked, looked at closer and compared before it is believed."""

from assistant.look_again.agreement import Agreement, agree
from assistant.look_again.asking import Ask, Asker, Budget, Step, Stopped, ask_with, with_images
from assistant.look_again.claims import Claim, claims_of, subject, without
from assistant.look_again.closer import Closer, look_closer
from assistant.look_again.loop import LookedAgain, look_again
from assistant.look_again.text import TextLine, read_text, with_text
from assistant.look_again.verdicts import Checked, Verdict, check

__all__ = [
    "Agreement",
    "Ask",
    "Asker",
    "Budget",
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
