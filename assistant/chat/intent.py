"""What a question wants to know that eyes can tell: where, how many, whether, what is in a box."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from fourfold.assistant.chat.look_again.claims import ASKING, EXISTENCE
from fourfold.assistant.english import COLOURS, number_of, singular, words_of
from fourfold.assistant.grounding import Box, parse
from fourfold.prompts.tasks import Task, task_of

MAX_PHRASE = 200
"""Characters of a phrase; whoever writes more names nothing one could point at."""


class Wants(StrEnum):
    """What is wanted."""

    PLACE = "place"  # of one thing, or of those that a plural means
    PLACES = "places"  # of every one
    NUMBER = "number"
    PRESENCE = "presence"
    COLOUR = "colour"
    SIDE = "side"  # whether one thing is left or right of another
    CAPTION = "caption"  # with the place of what it mentions
    NAME = "name"  # of what is in a box, or of what is shown


@dataclass(frozen=True)
class Intent:
    """What a question wants.

    Attributes:
        wants: the kind of answer.
        phrase: what it is about, in the question's words without article: "red ball on the left"; "" for the picture.
        tag: the task that the question's tag names; None where it has none.
        box: that the question is about.
        colour: of `COLOURS`, where the question is whether the thing has it: "is the ball red?".
        side: "left" or "right", where the question is whether the thing is on that side of `other`.
        other: see there.
    """

    wants: Wants
    phrase: str = ""
    tag: Task | None = None
    box: Box | None = None
    colour: str = ""
    side: str = ""
    other: str = ""

    @property
    def several(self) -> bool:
        """Whether more than one thing is meant: "the dogs", "two dogs", every dog."""
        if self.wants in (Wants.PLACES, Wants.NUMBER):
            return True
        words = words_of(re.split(r"\b(?:on|in|at|of|with|next|near|beside|behind|under|to)\b", self.phrase)[0])
        return (number_of(self.phrase) or 1) > 1 or bool(words and singular(words[-1]) != words[-1])


_PICTURE = r"(?:\s+(?:in|on|of|from)\s+(?:the|this|that)\s+(?:image|picture|photo|photograph|scene))?"
_PLACE = re.compile(
    r"^(?:(?:please|can you|could you)\s+)?(?:"
    r"where(?:'s|\s+is|\s+are)(?!\s+(?:this|it|that|he|she|they)\b)|point(?:\s+(?:at|to|out))?|locate|find(?!\s+out)|"
    r"show me where|show me|"
    r"give me the (?:location|place|position|box) of|in which place of the picture (?:is|are)|"
    r"what is the (?:location|place|position) of)\s+(.+?)" + _PICTURE + r"\W*$",
    re.IGNORECASE,
)
_PLACES = re.compile(
    r"^(?:please\s+)?(?:"
    r"(?:detect|mark|box|locate|find|point (?:at|to|out)|show me)\s+(?:all|every|each)(?:\s+of)?(?:\s+the)?|detect|"
    r"where are all(?:\s+of)?(?:\s+the)?)\s+(.+?)" + _PICTURE + r"\W*$",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"^(?:how many|count(?:\s+(?:all\s+)?the)?|(?:what is )?the number of)\s+(.+?)"
    r"(?:\s+(?:are|is)\s+(?:there|visible|shown|in view|present)|\s+(?:can|do)\s+you\s+see|\s+(?:are|is)(?=\s+in\b))?"
    + _PICTURE
    + r"\W*$",
    re.IGNORECASE,
)
_COLOUR = re.compile(
    r"^(?:(?:what|which)(?:'s|\s+is|\s+are)?\s+(?:the\s+)?colou?rs?\s+(?:is|are|of)|what\s+is\s+colou?r\s+of)\s+"
    r"(?!(?:it|this|that|they|these|those)\b)(.+?)" + _PICTURE + r"\W*$",
    re.IGNORECASE,
)
_HAS_COLOUR = re.compile(
    rf"^(?:is|are)\s+(?:the|his|her|their|its)\s+((?:(?!or\b|and\b)[\w'-]+\s+){{1,6}})({'|'.join(COLOURS)}|grey)"
    + _PICTURE
    + r"\W*$",
    re.IGNORECASE,
)
_SIDE_OF = re.compile(
    r"^(?:is|are)\s+(?:the|his|her)\s+(.+?)\s+(?:to\s+the|on\s+the)\s+(left|right)(?:\s+side)?\s+of\s+(?:the|his|her)\s+"
    r"(.+?)" + _PICTURE + r"\W*$",
    re.IGNORECASE,
)
_ANYBODY = re.compile(
    r"^(?:is|are)\s+(?:there\s+)?(?:any|some)\s?(?:one|body)(?:\s+(?:here|there|around)|\s+(?:in|on|at)\s+(?:the|this)\s+\w+)?\W*$",
    re.IGNORECASE,
)
# "is Rex there?", "is the dog in the picture?"; what somebody or something is like is another question.
_IS_HERE = re.compile(
    r"^(?:is|are)\s+(?!(?:there|this|that|it|he|she|they|we|you|i|these|those)\b)(.+?)"
    r"\s+(?:(?:also|still|anywhere)\s+)?"
    r"(?:there|here|visible|(?:to be seen\s+)?(?:in|on)\s+(?:the|this|that|my)\s+"
    r"(?:image|picture|photo|photograph|scene|pic))\W*$",
    re.IGNORECASE,
)
_HERE = re.compile(r"\s+(?:there|here)$", re.IGNORECASE)  # "is there a dog here"
_NAME = re.compile(
    r"^(?:who|what)(?:'s|\s+is)\s+(?:this|that|it|shown)"
    + _PICTURE
    + r"\W*$|^(?:who|what)\s+do you see"
    + _PICTURE
    + r"\W*$",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:any|a|an|the|some|my|your)\s+", re.IGNORECASE)
_WHERE_IS = re.compile(r"\s+(?:is|are)$", re.IGNORECASE)  # "show me where the dog is"
_DOING = re.compile(r"\b(?:is|are|was|were|do|does|did|can)\b|\w\s+\w+ing$", re.IGNORECASE)
_BEING = re.compile(r"\b(?:asleep|awake|alone|happy|sad|out|up|over|down)$", re.IGNORECASE)  # "is Rex asleep here?"
_MARKS = re.compile(r"</?p>")


def intent_of(question: str) -> Intent | None:
    """What a question wants that eyes can tell; None for any other question.

    Strict on purpose: "how many people wear hats" is no question for the number of people.
    """
    text = question.strip()
    tag = task_of(text)
    bare = _MARKS.sub("", ASKING.sub("", text, count=1)).strip()
    match tag:
        case Task.GROUNDING:
            return Intent(Wants.CAPTION, tag=tag)
        case Task.IDENTIFY:
            boxes = parse(bare).boxes
            return Intent(Wants.NAME, tag=tag, box=boxes[0]) if len(boxes) == 1 else None
        case Task.DETECTION:
            return _about(Wants.PLACES, bare, tag)
        case Task.REFER:
            found = _PLACE.match(bare)
            return _about(Wants.PLACE, found.group(1) if found else bare, tag)
        case Task.CAPTION:
            return None
    if _ANYBODY.match(bare):
        return Intent(Wants.PRESENCE, "person", tag)
    for wants, form in (
        (Wants.PRESENCE, EXISTENCE),
        (Wants.NUMBER, _NUMBER),
        (Wants.COLOUR, _COLOUR),
        (Wants.PLACES, _PLACES),
        (Wants.PLACE, _PLACE),
    ):
        if found := form.match(bare):
            phrase = _HERE.sub("", found.group(1)) if wants is Wants.PRESENCE else found.group(1)
            intent = _about(wants, phrase, tag)
            # "where are people going?", "is there a dog running?": what is asked for is not where they are.
            return None if intent is None or _DOING.search(intent.phrase) else intent
    if (found := _SIDE_OF.match(bare)) and (intent := _about(Wants.SIDE, found.group(1), tag)):
        other = _about(Wants.SIDE, found.group(3), tag)
        return replace(intent, side=found.group(2).lower(), other=other.phrase) if other else None
    if (found := _HAS_COLOUR.match(bare)) and (intent := _about(Wants.COLOUR, found.group(1), tag)):
        return replace(intent, colour=found.group(2).lower().replace("grey", "gray"))
    if (found := _IS_HERE.match(bare)) and (intent := _about(Wants.PRESENCE, found.group(1), tag)):
        return None if _DOING.search(intent.phrase) or _BEING.search(intent.phrase) else intent
    return Intent(Wants.NAME, tag=tag) if _NAME.match(bare) else None


def _about(wants: Wants, phrase: str, tag: Task | None) -> Intent | None:
    phrase = without_article(_WHERE_IS.sub("", " ".join(phrase.split()).strip(" .,;:!?")))
    if not phrase or len(phrase) > MAX_PHRASE or re.search(r"[<>{}]", phrase):  # a box is no phrase
        return None
    return Intent(wants, phrase, tag)


def without_article(phrase: str) -> str:
    """`the red ball` → `red ball`."""
    return _ARTICLE.sub("", phrase.strip(), count=1).strip()
