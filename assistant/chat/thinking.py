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


# The end of an answer that is still arriving where it may become one of these marks.
_BEGUN = re.compile(r"(?:</?\|?[a-z_:]{0,20}\|?|\[/?(?:T(?:H(?:I(?:NK?)?)?)?)?|◁/?[a-z]{0,6})\Z", re.IGNORECASE)


class Told(NamedTuple):
    """An answer without its thought, and the thought; None where there was none."""

    answer: str
    thought: str | None


def split_thought_so_far(text: str) -> Told:
    """The same of an answer whose end may be missing: what may be the beginning of a mark is held back."""
    begun = _BEGUN.search(text, max(len(text) - 24, 0))
    return split_thought(text[: begun.start()] if begun else text)


def split_thought(text: str) -> Told:
    """The answer: what stands behind the last thought, or before it where nothing does; "" where there is none.

    A thought that was cut off goes to the end. Tags that say "this is the answer" around all of it are left out too.
    """
    thoughts: list[str] = []
    answers: list[str] = []
    place = 0
    while True:
        opened, closed = _OPEN.search(text, place), _CLOSE.search(text, place)
        if closed and (opened is None or closed.start() < opened.start()):  # the prompt opened it
            thoughts.append(text[place : closed.start()])
        elif opened:
            answers.append(text[place : opened.start()])
            closed = _CLOSE.search(text, opened.end())
            thoughts.append(text[opened.end() : closed.start() if closed else len(text)])
        else:
            answers.append(text[place:])
            break
        place = closed.end() if closed else len(text)
    answer = next((one.strip() for one in reversed(answers) if one.strip()), "") if thoughts else text
    whole = _ANSWER.fullmatch(answer)
    if whole:
        answer = whole[1].strip()
    bare = _BOXED.sub("", answer)
    thought = "\n".join(one.strip() for one in thoughts) if thoughts else None
    return Told(bare.strip() if bare != answer else answer, thought)
