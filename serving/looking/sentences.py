"""A short answer as an assistant says it: "Red.", "Yes, there is a dog.", "Not sure – perhaps red." """

import re
from collections.abc import Sequence

from fourfold.assistant.english import is_plural_only, number_of, plural, singular, with_article, words_of
from fourfold.assistant.grounding import Box, format_phrase

_UNSURE = "Not sure – perhaps "
UNSURE = re.compile(r"^not sure\b", re.IGNORECASE)
"""Begins an answer that is doubtful."""
_DETERMINED = ("a", "an", "the", "my", "our", "your")
_PROPER = re.compile(r"^(?:I\b|[A-Z]{2,}|[A-Z]\w*\s+[A-Z])")  # begins with a capital wherever it stands


def sentence(answer: str) -> str:
    """`red` → `Red.`; what ends like a sentence already only gets its capital."""
    answer = answer.strip()
    if not answer:
        return answer
    closed = answer if answer[-1] in ".!?…" else f"{answer}."
    return closed[0].upper() + closed[1:]


def unsure(answer: str) -> str:
    """`Red.` → `Not sure – perhaps red.`; what says so already stays."""
    answer = sentence(answer).removeprefix("I count ")
    if UNSURE.match(answer):
        return answer
    return _UNSURE + (answer if _PROPER.match(answer) else answer[:1].lower() + answer[1:])


def there(phrase: str, *, is_there: bool) -> str:
    """`Yes, there is a dog.` or `No, I see no dog.`"""
    if not is_there:
        return f"No, I see no {phrase}."
    return f"Yes, there {'are' if means_several(phrase) else 'is'} {named(phrase)}."


def perhaps_there(phrase: str, *, is_there: bool) -> str:
    """The same without a yes or no: `There is a dog.`, `There is no dog.`"""
    return f"There {'are' if means_several(phrase) else 'is'} {named(phrase) if is_there else f'no {phrase}'}."


def counted(number: int, phrase: str, *, at_least: bool = False) -> str:
    """`I count 3 dogs.`, `I see no dogs.`

    Args:
        number: of the things.
        phrase: their name, in either number.
        at_least: whether there may be more.
    """
    if number == 0:
        return f"I see no {phrase}."
    words = phrase.split()
    one = " ".join([*words[:-1], singular(words[-1])])
    many = " ".join([*words[:-1], plural(singular(words[-1]))])
    return f"I count {'at least ' if at_least else ''}{number} {one if number == 1 else many}."


def here(phrase: str, boxes: Sequence[Box]) -> str:
    """`Here is the dog.` with the boxes behind their words."""
    several = len(boxes) > 1 or means_several(phrase)
    article = definite(phrase)[: -len(phrase)]
    return f"Here {'are' if several else 'is'} {article}{format_phrase(phrase, boxes)}."


def named(phrase: str) -> str:
    """`a dog`, `dogs`, `red balls`, `Rex`: a noun that was not named before."""
    words = words_of(phrase)
    if not words or phrase[:1].isupper() or means_several(phrase) or words[0] in _DETERMINED:
        return phrase
    return with_article(phrase)


def definite(phrase: str) -> str:
    """`the dog`; a name has no article."""
    return phrase if phrase[:1].isupper() or words_of(phrase)[:1] in (["our"], ["the"]) else f"the {phrase}"


def means_several(phrase: str) -> bool:
    """Whether a phrase is in the plural."""
    words = words_of(re.split(r"\b(?:on|in|at|of|with|next|near|beside|behind|under|to)\b", phrase)[0])
    if (number_of(phrase) or 1) > 1:
        return True
    return bool(words) and (singular(words[-1]) != words[-1] or is_plural_only(words[-1]))
