"""Questions about how many there are of a thing, which the detector counts."""

import re
from collections.abc import Callable, Sequence

from fourfold.assistant.chat.intent import Wants, intent_of
from fourfold.assistant.chat.look_again.claims import ASKING, EXISTENCE
from fourfold.assistant.english import COLOURS, NUMBERS, singular, words_of
from fourfold.assistant.tools.coco import class_of
from fourfold.serving.looking.eyes import Eyes
from fourfold.serving.looking.numbers import MOST, chances_of

DETECTOR = "detector"
"""Who says how many there are."""
_NUMBER = rf"(\d{{1,2}}|{'|'.join(NUMBERS[1:])})"
_FORMS: tuple[tuple[str, Callable[[int], range]], ...] = (
    (rf"(?:at least|no fewer than|no less than) {_NUMBER} (.+)", lambda n: range(n, MOST)),
    (rf"{_NUMBER} or more (.+)", lambda n: range(n, MOST)),
    (rf"more than {_NUMBER} (.+)", lambda n: range(n + 1, MOST)),
    (rf"(?:at most|no more than|not more than) {_NUMBER} (.+)", lambda n: range(n + 1)),
    (rf"{_NUMBER} or (?:fewer|less) (.+)", lambda n: range(n + 1)),
    (rf"(?:fewer|less) than {_NUMBER} (.+)", range),
    (rf"(?:exactly |only |just )?{_NUMBER} (.+)", lambda n: range(n, n + 1)),
)
_THERE = re.compile(r"^there (is|are)\s+(.+)$", re.IGNORECASE)  # a statement


def number_asked(words: str) -> tuple[str, range] | None:
    """The noun and the numbers of it for which the answer is yes: "are there two dogs?" is true of just two.

    None for any other question, also for one about things that are described: the detector counts all of a kind.
    """
    bare = _THERE.sub(r"\1 there \2", ASKING.sub("", words, count=1).strip().rstrip(".!"))
    asked = EXISTENCE.match(bare)
    if asked is None:
        return None
    for form, numbers in _FORMS:
        if found := re.fullmatch(form, " ".join(asked.group(1).split()), re.IGNORECASE):
            noun = found.group(2)
            return (noun, numbers(_number(found.group(1)))) if _is_kind(noun) else None
    return None


def count_of(eyes: Eyes, words: str) -> float | None:
    """Probability of yes to a question whether there are so many; None where the detector cannot tell.

    Raises:
        UserError: the detector cannot be used.
    """
    asked = number_asked(words)
    if asked is None:
        return None
    chances = chances_of(eyes, asked[0])
    return None if chances is None else sum(chances[number] for number in asked[1])


def counts_of(eyes: Eyes, words: str, options: Sequence[str]) -> tuple[float, ...] | None:
    """Probability of each option of "how many dogs are there?"; None where one is no number, or as `count_of`.

    What lies beyond the largest option counts for it where it is written "3+" or "3 or more"; else it is shared out.

    Raises:
        UserError: as `count_of`.
    """
    intent = intent_of(words)
    if intent is None or intent.wants is not Wants.NUMBER or not _is_kind(intent.phrase):
        return None
    numbers = [_range(option) for option in options]
    if not all(numbers):
        return None
    chances = chances_of(eyes, intent.phrase)
    if chances is None:
        return None
    found = [sum(chances[number] for number in among) for among in numbers if among]
    total = sum(found)
    return tuple(share / total for share in found) if total > 1e-6 else None


def _is_kind(noun: str) -> bool:
    """Whether a noun means all things of a class, and none more than others: not "brown dogs", not "dogs on a bed"."""
    words = words_of(noun)
    if not 0 < len(words) <= 2 or any(word in COLOURS for word in words):
        return False
    label = class_of(noun)
    # "big dogs" would be counted as dogs.
    return label is not None and (len(words) == 1 or class_of(words[-1]) != label or singular(words[-1]) == noun)


def _number(word: str) -> int:
    return int(word) if word.isdigit() else NUMBERS.index(word.lower())


def _range(option: str) -> range | None:
    words = option.strip().lower()
    if found := re.fullmatch(rf"(?:0|none|no|{_NUMBER})", words):
        number = _number(found.group(1)) if found.group(1) else 0
        return range(number, number + 1)
    if found := re.fullmatch(rf"{_NUMBER}\s*(?:\+|or more)", words):
        return range(_number(found.group(1)), MOST)
    return None
