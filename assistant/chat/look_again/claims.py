"""What an answer claims to be in the image, and the answer without what turned out not to be there."""

import re
from dataclasses import dataclass

from fourfold.assistant.chat.look_again.client import yes_or_no
from fourfold.assistant.english import COLOURS, head_noun, singular, with_article, words_of
from fourfold.assistant.grounding import Box, parse
from fourfold.prompts.tasks import INSTRUCTIONS, Task


@dataclass(frozen=True)
class Claim:
    """Something that an answer says is there, or is not."""

    phrase: str  # in the answer's words (the question's, where the answer is a yes, a no or a bare box)
    thing: str  # what to ask for, without article: the noun, with its colour if it has one
    boxes: tuple[Box, ...] = ()  # where the answer puts it
    denied: bool = False  # the answer says that it is not there
    asked: bool = False  # the question was whether it is there, so the answer is no evidence for itself


ASKING = re.compile(
    r"^\s*(?:\[\w+\]\s*)?(?:based on the image, respond to this question with a short answer:\s*)?", re.I
)
EXISTENCE = re.compile(
    r"^(?:(?:is|are) there|(?:can|do) you see|does (?:the|this) (?:image|picture|photo) (?:show|contain|have))\s+"
    r"(?:any\s+)?(.+?)(?:\s+(?:in|on|at) (?:the|this) (?:image|picture|photo|scene))?\s*\?*\s*$",
    re.IGNORECASE,
)
_COUNT = re.compile(r"^how many\s+(.+?)(?:\s+(?:are|is|can|do)\b.*|\s+(?:in|on)\b.*)?\s*\?*\s*$", re.IGNORECASE)
REFERS = tuple(
    re.compile(re.escape(form).replace(re.escape("{text}"), "(.+)") + "$", re.IGNORECASE)
    for form in INSTRUCTIONS[Task.REFER]
)
_DETERMINER_WORDS = "a an the his her its their my one two three four five six several some many another each both no"
_DETERMINERS = frozenset(_DETERMINER_WORDS.split())
# Words that end a noun phrase: prepositions, conjunctions, and the verbs that captions use most.
_STOP_WORDS = """
    in on at of with by from to into onto near under over behind beside between through across along around above below
    against for as and or but while who which that is are was were be has have wears wear stands stand sits sit holds
    hold runs run jumps jump plays play walks walk looks look rides ride there it they he she
"""
_STOPS = frozenset(_STOP_WORDS.split())
_MEASURES = ("group", "pair", "couple", "crowd", "number", "bunch", "row")  # "a group of people" is one phrase


def subject(question: str) -> str | None:
    """The one thing that a question is about, as `Claim.thing`; None where it is about none or several."""
    text = ASKING.sub("", question, count=1).strip()
    for form in (EXISTENCE, _COUNT, *REFERS):
        if match := form.match(text):
            return thing_of(match.group(1))
    if question.lstrip().lower().startswith((Task.REFER.tag, Task.DETECTION.tag)):
        return thing_of(text)
    # "is the dog brown?": the phrase is one word too long.
    things = dict.fromkeys(filter(None, (thing_of(p) or thing_of(p.rpartition(" ")[0]) for p in _noun_phrases(text))))
    return next(iter(things)) if len(things) == 1 else None


def counted(question: str) -> str | None:
    """The thing whose number a question asks for, or None."""
    match = _COUNT.match(ASKING.sub("", question, count=1).strip())
    return thing_of(match.group(1)) if match else None


def claims_of(question: str, answer: str) -> tuple[Claim, ...]:
    """What an answer claims, each thing once.

    Read from the phrases that have boxes; else from a yes or no to "is there ...?"; else from the noun phrases of the
    answer by rules of English. Counts and colours are no claims of their own.
    """
    grounded = parse(answer)
    claims = []
    for phrase in grounded.phrases:
        name = phrase.phrase or subject(question)
        thing = thing_of(name) if name else None
        if name and thing:
            claims.append(Claim(name, thing, phrase.boxes))
    if not claims:
        asked = EXISTENCE.match(ASKING.sub("", question, count=1).strip())
        said = yes_or_no(grounded.plain)
        if asked and said is not None:
            thing = thing_of(asked.group(1))
            claims = [Claim(asked.group(1), thing, denied=not said, asked=True)] if thing else []
        else:
            claims = [Claim(p, thing) for p in _noun_phrases(grounded.plain) if (thing := thing_of(p))]
    seen: dict[str, Claim] = {}
    for claim in claims:
        seen.setdefault(claim.thing, claim)
    return tuple(seen.values())


def thing_of(phrase: str) -> str | None:
    """`two small red circles on the left` → `red circle`; None where a phrase names nothing one could look for."""
    words = words_of(phrase)
    if len(words) == 1:  # a bare noun, "dogs"
        return None if words[0] in COLOURS else head_noun(phrase) or None
    noun = head_noun(phrase)
    if noun is None:
        return None
    places = [i for i, word in enumerate(words) if singular(word) == noun]
    before = words[places[0] - 1] if places and places[0] else ""
    return f"{before} {noun}" if before in COLOURS else noun


def is_there(thing: str) -> str:
    """The question whether a thing is in the image."""
    return f"{Task.VQA.tag} is there {with_article(thing)} in the image?"


def without(answer: str, phrases: list[str]) -> str:
    """The answer without the parts that speak of `phrases`, and without box markup; empty where nothing is left.

    A part is what stands between commas and "and"; within it, a group such as "with a ball" can go alone, but not what
    the part begins with.
    """
    kept = []
    for sentence in re.split(r"(?<=[.!?])\s+", parse(answer).plain):
        body = sentence.rstrip(".!?")
        parts = []
        for part in re.split(r"(?i)\s*,\s*(?:and\s+)?|\s+and\s+", body):
            groups = re.split(r"(?i)\s+(?=(?:with|in|on|at|near|beside|behind|under|over)\b)", part)
            if not any(_holds(groups[0], phrase) for phrase in phrases):
                parts.append(" ".join(g for g in groups if not any(_holds(g, phrase) for phrase in phrases)))
        if parts == re.split(r"(?i)\s*,\s*(?:and\s+)?|\s+and\s+", body):
            kept.append(sentence)
        elif parts:
            joined = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
            kept.append(joined[:1].upper() + joined[1:] + sentence[len(body) :])
    return " ".join(kept)


def _holds(clause: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase)}\b", clause, re.IGNORECASE) is not None


def _noun_phrases(text: str) -> list[str]:
    """Noun phrases that begin with a determiner or number, `a big dog`, up to the first word that ends them."""
    found = []
    for clause in re.split(r"[^\w\s'-]+", text):
        words = clause.split()
        place = 0
        while place < len(words):
            if words[place].lower() not in _DETERMINERS:
                place += 1
                continue
            end = place + 1
            while end < len(words) and end - place < 6 and not _ends(words, place, end):
                end += 1
            if end - place > 1:
                found.append(" ".join(words[place:end]))
            place = end
    return found


def _ends(words: list[str], start: int, place: int) -> bool:
    word = words[place].lower()
    if word == "of" and words[place - 1].lower() in _MEASURES:
        return False
    if word in _STOPS or word in _DETERMINERS:
        return True
    if place - start < 2:
        return False
    if "of" in words[start:place]:  # "a group of people pose" ends after its plural
        return singular(words[place - 1]) != words[place - 1].lower()
    # After "a" the noun is singular, so "a dog jumps" and "a dog running" end before the verb.
    return word.endswith("ing") or (words[start].lower() in ("a", "an") and singular(word) != word)
