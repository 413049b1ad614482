"""Telling what a model answers from what it thought before."""

import re
from typing import NamedTuple

_NAMES = "think|thinking|thought|reasoning|reflection"
# How families open and close a thought; the opening is often part of the prompt, and then only the close is written.
_MARKS = (
    (rf"<(?:seed:)?(?:{_NAMES})>", rf"</(?:seed:)?(?:{_NAMES})>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|channel\|>(?:analysis|commentary)\b", r"<\|channel\|>final(?:<\|message\|>)?"),
)
_OPEN = re.compile("|".join(opened for opened, _ in _MARKS), re.IGNORECASE)
_CLOSE = re.compile("|".join(closed for _, closed in _MARKS), re.IGNORECASE)
_ANSWER = re.compile(r"\s*<answer>(.*?)(?:</answer>\s*)?", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"<\|begin_of_(?:box|solution)\|>|<\|end_of_(?:box|solution)\|>")


class Told(NamedTuple):
    """An answer without its thought, and the thought; None where there was none."""

    answer: str
    thought: str | None


def split_thought(text: str) -> Told:
    """The answer behind the last thought; "" where the thought was cut off and no answer came.

    Tags that say "this is the answer" around the whole of what is left are left out too.
    """
    thought, answer = None, text
    closes = list(_CLOSE.finditer(text))
    if closes:
        thought, answer = text[: closes[-1].start()], text[closes[-1].end() :]
        reopened = _OPEN.search(answer)
        if reopened:  # thinking once more, and cut off there
            thought += answer[reopened.start() :]
            answer = answer[: reopened.start()]
    elif (opened := _OPEN.match(text.lstrip())) is not None:
        thought, answer = text.lstrip()[opened.end() :], ""
    if thought is not None:
        thought = _CLOSE.sub("\n", _OPEN.sub("", thought)).strip()
        answer = answer.strip()
    whole = _ANSWER.fullmatch(answer)
    if whole:
        answer = whole[1].strip()
    bare = _BOXED.sub("", answer)
    return Told(bare.strip() if bare != answer else answer, thought)
