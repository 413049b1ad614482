"""MMMU's open questions: whether what an answer comes to holds the right words or the right number."""

import re
from collections.abc import Sequence

_SENTENCE = re.compile(r"\.\s(?=[A-Z])|\n")
_BEFORE_THE_ANSWER = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NOTHING = frozenset({":", ",", ".", "!", "?", ";", "'"})
# Numbers with thousands commas, in scientific notation, and plain; a plain one is no part of either of the others.
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def mmmu_open(answer: str, references: Sequence[str]) -> bool:
    """Whether one of the answer's key phrases holds a reference, or one of its numbers is one to two decimals.

    MMMU's script lower-cases the answer before it splits it into sentences at a full stop and a capital, so that only
    line breaks split it. That stays.
    """
    wanted = [form for reference in references for form in _forms(reference)]
    texts = [one for one in wanted if isinstance(one, str)]
    for said in _candidates(answer):
        if isinstance(said, str):
            if any(text in said for text in texts):
                return True
        elif said in wanted:
            return True
    return False


def _candidates(answer: str) -> list[str | float]:
    phrases = _key_phrases(answer)
    numbers = [number for phrase in phrases for pattern in _NUMBERS for number in pattern.findall(phrase)]
    return [form for one in (*phrases, *numbers) for form in _forms(one)]


def _key_phrases(answer: str) -> list[str]:
    """Of each line the shortest rest behind words that announce an answer; the whole answer where no line has such."""
    lowered = answer.strip().strip(".").lower()
    lines = _SENTENCE.split(lowered)
    found = []
    for number, line in enumerate(lines):
        markers = (*_BEFORE_THE_ANSWER, "=") if number == len(lines) - 1 else _BEFORE_THE_ANSWER
        shortest = ""
        for rest in (line.split(marker)[-1].strip() for marker in markers if marker in line):
            # An empty rest is taken over by whatever comes next, as in the script.
            if not shortest or len(rest) < len(shortest):
                shortest = rest
        if shortest and shortest not in _NOTHING:
            found.append(shortest)
    return found or [lowered]


def _forms(text: str) -> list[str | float]:
    """A number to two decimals, else the lower-case text; a single character only with a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
