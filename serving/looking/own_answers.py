"""Questions that the eyes cannot tell: the language model answers, and says how sure that is, or that it cannot.

Only where the checkpoint's card says how often its model is right; a model without a card answers as it does.
"""

import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from fourfold.assistant.chat.look_again import read_text
from fourfold.assistant.chat.look_again.claims import ASKING
from fourfold.assistant.checkpoints.card import MeasuredCard
from fourfold.assistant.english import PEOPLE, head_noun, singular, with_article, words_in, words_of
from fourfold.assistant.grounding import parse
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.requests import Completion, Request, completed
from fourfold.serving.looking.captions import caption
from fourfold.serving.looking.certainty import SURE, certainty
from fourfold.serving.looking.claim import Claim, Said
from fourfold.serving.looking.eyes import SHOWN, Eyes
from fourfold.serving.looking.kinds import Kind, kind_of
from fourfold.serving.looking.sentences import counted, sentence, unsure

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

CANNOT_TELL = 0.1
"""Chance below which no guess is better than one."""
NOT_MEANT = 0.2
"""Presence below which what a question takes for granted is not there: "what colour is the car?"."""
_BRIEF = 40  # tokens of an answer in a word
_SURE_THING = 0.8  # of the detector, where the model cannot name what is shown
_LARGE = 0.08  # part of the picture from which a thing can be what "this" is

# "soccer" and "kitchen" answer these without an article.
_KIND_OF = re.compile(
    r"^(?:what|which)\s+(?:sport|game|room|kind|type|sort|breed|material|season|place|colou?r|style|weather)\b", re.I
)

NO_READER = "I cannot read what is written in a picture, nor a clock."
ONLY_ENGLISH = "I only understand simple English questions about a picture."
NOT_UNDERSTOOD = "I did not understand that. Ask what is in the picture, or where something is."
BEYOND = "I cannot tell: I am a small model that only says what is to be seen in a picture."
ONE_AT_A_TIME = "I can only look at one picture at a time."
WHAT_IS_IT = 'Say what you mean by "it": ask "Where is the dog?", for example.'
NO_ANSWER = "I cannot tell."


def own_answer(question: str, eyes: Eyes, request: Request, card: MeasuredCard, cancel: threading.Event | None) -> Said:
    """The model's answer as a sentence, with its chance of being right; or what it cannot do, in a sentence.

    Args:
        question: with its tag, if it has one; none that wants its answer in a word.
        eyes: on the picture.
        request: that the question is of.
        card: of the checkpoint, with its `certainty`.
        cancel: when set, the model's answer ends early.
    """
    kind = kind_of(question)
    bare = ASKING.sub("", question, count=1).strip()
    if question.lstrip().startswith(Task.CAPTION.tag):
        kind = Kind.CAPTION
    match kind:
        case Kind.CAPTION:
            return caption(eyes, request, card, cancel)
        case Kind.TEXT:
            return _read(eyes, bare)
        case Kind.FOREIGN:
            return Said(ONLY_ENGLISH)
        case Kind.COMPARISON:
            return Said(ONE_AT_A_TIME)
    if missing := _taken_for_granted(eyes, bare):
        return missing
    if kind is Kind.BEYOND:
        return Said(BEYOND)
    if kind is Kind.OTHER and not question.lstrip().startswith(Task.IDENTIFY.tag) and not _names_something(eyes, bare):
        return Said(NOT_UNDERSTOOD)
    completion = _brief(eyes, request, cancel)
    chance = certainty(card, kind, completion)
    answer = parse(completion.text).plain.strip()
    if (kind is Kind.WHAT or kind is Kind.OTHER) and chance < SURE and (seen := _most_striking(eyes, bare)):
        return seen
    if not answer or chance < CANNOT_TELL or _only_repeats(answer, bare, kind):
        return Said(NO_ANSWER)
    words = _in_words(answer, kind, bare)
    claim = Claim(answer, None, chance, "model")
    return Said(words if chance >= SURE else unsure(words), (claim,))


def plain_answer(engine: "Engine", request: Request, cancel: threading.Event | None) -> str:
    """What the model says, without any boxes."""
    return parse("".join(delta.text for delta in engine.stream(request, cancel))).plain.strip()


def _brief(eyes: Eyes, request: Request, cancel: threading.Event | None) -> Completion:
    sampling = replace(request.sampling, logprobs=0, max_tokens=min(request.sampling.max_tokens, _BRIEF))
    return completed(eyes.engine.stream(replace(request, sampling=sampling), cancel))


def _in_words(answer: str, kind: Kind, question: str) -> str:
    """The answer as a sentence."""
    bare = answer.rstrip(".").strip()
    if kind is Kind.NUMBER and bare.isdigit() and (found := re.search(r"how many\s+(\w+)", question, re.IGNORECASE)):
        return counted(int(bare), found.group(1))
    words = words_of(bare)
    is_noun = bare.islower() and len(words) == len(bare.split()) == 1 and head_noun(bare) == singular(bare) == bare
    if kind in (Kind.WHAT, Kind.ACTION, Kind.OTHER) and is_noun and not _KIND_OF.match(question):
        return sentence(with_article(bare))
    return sentence(answer)


def _only_repeats(answer: str, question: str, kind: Kind) -> bool:
    """Whether an answer only says what the question did: "girl" to what the girl is holding."""
    if kind not in (Kind.WHAT, Kind.ACTION):
        return False
    asked = {singular(word) for word in words_of(question)}
    said = [singular(word) for word in words_of(answer) if word not in ("a", "an", "the")]
    return bool(said) and all(word in asked for word in said)


def _taken_for_granted(eyes: Eyes, question: str) -> Said | None:
    """That there is no such thing, where a question takes one for granted that is most likely not there."""
    for phrase in re.findall(r"\bthe ((?:[\w'-]+ ){0,2}[\w'-]+)", question, re.IGNORECASE):
        words = phrase.split()
        nouns = [head_noun(" ".join(words[:end])) for end in range(len(words), 0, -1)]  # "car parked" is a car
        found = next((seen for noun in nouns if noun and (seen := eyes.find(noun))), None)
        if found is None or found.source == SHOWN or found.presence >= 0.5 or found.noun in _NEVER_MISSING:
            continue
        chance, source = eyes.presence(found, found.noun)
        if chance < NOT_MEANT:
            return Said(f"I see no {found.noun}.", (Claim(f"no {found.noun}", None, 1 - chance, source),))
    return None


# What pictures have, or what is not seen as a thing; and words for people that another word fits better.
_NEVER_MISSING = words_in(
    "image picture photo photograph scene color colour thing object room place weather time day night name way air "
    "side corner background foreground distance ground world camera number word question answer"
) | (PEOPLE - words_in("man woman boy girl child baby person people"))


def _names_something(eyes: Eyes, words: str) -> bool:
    """Whether words that are no question name at least something that is known: "the dog", "colour of the sofa"."""
    return eyes.library.read(words) is not None


def _most_striking(eyes: Eyes, question: str) -> Said | None:
    """What "this" is by the detector, where it sees one thing that is large and sure enough."""
    if not re.match(r"^what(?:'s| is| are)\s+(?:this|that|it|these|those)(?:\s+thing)?\W*$", question, re.IGNORECASE):
        return None
    seen = [one for one in eyes.everything() if one[2] >= _SURE_THING and one[1].area >= _LARGE]
    if not seen:
        return None
    label, box, chance = max(seen, key=lambda one: one[1].area * one[2])
    return Said(sentence(with_article(label)), (Claim(label, box, chance, "detector"),))


def _read(eyes: Eyes, question: str) -> Said:
    """What is written, by the reader where it is installed."""
    if re.search(r"\btime\b|\bclock\b", question, re.IGNORECASE):
        return Said(NO_READER)
    try:
        lines = read_text(eyes.image)
    except UserError:  # the extra is not installed
        return Said(NO_READER)
    if not lines:
        return Said("I see no text that I could read.")
    said = " ".join(line.text for line in lines)[:300]
    sure = min(line.score for line in lines)
    claims = tuple(Claim(line.text, line.box, line.score, "reader") for line in lines)
    words = f'It says "{said}".'
    return Said(words if sure >= SURE else f'Not sure – perhaps it says "{said}".', claims)
