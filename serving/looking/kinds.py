"""What sort of question a model is asked, since each sort has its own chance of a right answer."""

import re
from enum import StrEnum

from fourfold.assistant.chat.look_again.claims import ASKING
from fourfold.assistant.english import words_in


class Kind(StrEnum):
    """Sorts of questions about a picture."""

    YES_NO = "yes or no"
    RELATION = "relation"  # a yes or no about how things lie to each other
    COLOUR = "colour"
    NUMBER = "number"
    WHAT = "what"  # what or which thing it is
    ACTION = "action"  # what somebody does, holds, wears
    CAPTION = "caption"
    TEXT = "text"  # what is written, what time a clock shows
    COMPARISON = "comparison"  # of pictures
    BEYOND = "beyond"  # why, how, when: what no picture shows, or no small model knows
    FOREIGN = "foreign"  # no English
    OTHER = "other"


_SHORT = re.compile(
    r"\b(?:(?:single|one) word|short (?:answer|phrase)|word or (?:a )?(?:short )?phrase|yes or no\b|true or false"
    r"|letter (?:of|from)|option'?s? letter|options?:|choices:)|^\(?A[.):]\s.*\n\(?B[.):]\s",
    re.IGNORECASE | re.MULTILINE,
)
_THE_PICTURE = r"(?:(?:the|this|that|your|my) )?(?:image|picture|photo|photograph|scene|pic)\b"
_FORMS: tuple[tuple[Kind, str], ...] = (
    (
        Kind.COMPARISON,
        r"^(?:in |on )?which (?:one )?(?:of (?:the|these|my) )?(?:\w+ )?(?:pictures?|images?|photos?|pics?)\b"
        r"|\b(?:compare|differences?|differ|in common|both|two|which|other|first and)\b.{0,40}"
        r"\b(?:pictures|images|photos|pics)\b",
    ),
    (
        Kind.TEXT,
        r"\b(?:reads?|written|writing|spells?|texts?|words?|letters?|inscription|slogan)\b|\b(?:say|says)\b\s*\W*$"
        r"|\bwhat (?:does|do) .{1,40}\b(?:signs?|labels?|posters?|shirts?|books?|screens?|banners?) say"
        r"|\bwhat (?:does|do) .{1,40}\bsay (?:on|in|at|there|here)\b"
        r"|\bwhat(?:'s| is)? (?:the )?time\b|\b(?:what|which) number\b|\b(?:licen[cs]e|number) plate"
        r"|\bwhat (?:brand|company|street|title|date|price)\b",
    ),
    (
        Kind.CAPTION,
        r"^(?:please |can you |could you |now |just )*(?:describe|caption|summari[sz]e|tell (?:me|us) (?:about|what)"
        r"|explain (?:the|this|what)|say what|list|look\b|what (?:do|can) (?:you|i|we) see\b"
        r"|what(?:'s| is) (?:happening|going on)"
        r"|what(?:'s| is) (?:there|shown|in|on) ?(?:here|in|on|at)?(?: " + _THE_PICTURE + r")?\W*$"
        r"|what (?:does|is) " + _THE_PICTURE + r" (?:show|about)|what can be seen"
        r"|(?:give (?:me )?|write )(?:a|one) (?:\w+ )?(?:caption|description|sentence))",
    ),
    (Kind.BEYOND, r"^(?:so |and |but )?(?:why|how(?! many\b)|when|whose|where (?:was|is this|are we|am i|did|do)\b)"),
    (Kind.NUMBER, r"\bhow many\b|^count\b|\bnumber of\b"),
    (Kind.COLOUR, r"\b(?:what|which)\b.{0,12}\bcolou?rs?\b|\bcolou?r (?:is|are|does|do)\b"),
    (
        Kind.RELATION,
        r"^(?:is|are|does|do|was|were)\b.*\b(?:left|right|above|below|behind|in front of|under|beneath|beside|next to"
        r"|between|closer|nearer|further|farther|bigger|smaller|larger|taller|higher|lower|more|fewer|same)\b",
    ),
    (
        Kind.YES_NO,
        r"^(?:so |and |but )?(?:is|are|was|were|am|do|does|did|can|could|has|have|had|will|would|should|may|might"
        r"|isn't|aren't|doesn't|don't|any)\b",
    ),
    (
        Kind.ACTION,
        r"^(?:what|which)\b.*\b(?:doing|do|does|did|holding|hold|wearing|wears?|riding|ride|eating|eat|drinking|play"
        r"|playing|carrying|throwing|catching|looking|watching|using|reading|pulling|pushing|jumping|touching)\b",
    ),
    (Kind.WHAT, r"^(?:and |so )?(?:what|which|who|name|identify)\b|^(?:it|this|that) is\b"),
)
_READ = tuple((kind, re.compile(form, re.IGNORECASE)) for kind, form in _FORMS)
_ENGLISH = words_in(
    "a an and any are at be can colour color could count describe did do does doing find from has have he her here his "
    "how i in is it its kind many me my of on or picture image photo please point see she show sort tell than that the "
    "their them there they thing this to type was we what where which who whose why with you your"
)
_FOREIGN = words_in(
    "ist sind das der die den dem ein eine einen wo wie viele wer warum welche welcher was siehst du auf dem bild gibt "
    "es hier und qué que hay el la los las un una unos en de dónde cuántos cuántas cuál color foto imagen está están "
    "hace le les des du est sont il y ce cet cette où combien quel quelle quels quelles voyez vois vous dans sur qui "
    "quoi che cosa c'è quanti dove di colore nella è sono onde quantos quantas cor há são uma um não wat waar hoe veel "
    "er een het op vad var hur finns är det jest co gdzie ile"
)


def wants_short(question: str) -> bool:
    """Whether a question asks for its answer in a word, as benchmarks do: by its tag or in words."""
    return question.lstrip().lower().startswith("[vqa]") or bool(_SHORT.search(question))


def kind_of(question: str) -> Kind:
    """The sort of a question, with or without a task's tag; `OTHER` where it is none of those."""
    bare = " ".join(ASKING.sub("", question, count=1).split())
    if is_foreign(bare):
        return Kind.FOREIGN
    return next((kind for kind, form in _READ if form.search(bare)), Kind.OTHER)


def is_foreign(words: str) -> bool:
    """Whether a question of some words is not in English, as far as its commonest words tell."""
    said = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", words.lower())
    if not said:
        return False
    if sum(not letter.isascii() for word in said for letter in word) > sum(map(len, said)) / 2:
        return True  # another alphabet
    foreign = sum(word in _FOREIGN for word in said)
    return foreign > sum(word in _ENGLISH and word not in _FOREIGN for word in said) and foreign * 3 >= len(said)
