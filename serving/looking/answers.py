"""What the eyes say to a question: in a sentence, or after a task's tag in the form in which the model would say it."""

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from fourfold.assistant.chat.intent import Intent, Wants, without_article
from fourfold.assistant.checkpoints.card import MeasuredCard
from fourfold.assistant.english import COLOURS, plural, singular, words_of
from fourfold.assistant.grounding import Box, format_box, format_phrase, parse
from fourfold.assistant.training.data.photo_tasks import ABSENT
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.requests import Request
from fourfold.serving.looking.captions import caption, mentions
from fourfold.serving.looking.certainty import SURE, calibrated
from fourfold.serving.looking.claim import Claim, Said, Source, boxes_of
from fourfold.serving.looking.eyes import SHOWN, Eyes
from fourfold.serving.looking.numbers import chance_of_number
from fourfold.serving.looking.sentences import (
    counted,
    definite,
    here,
    means_several,
    named,
    perhaps_there,
    sentence,
    there,
    unsure,
)

if TYPE_CHECKING:
    from fourfold.assistant.readouts import Finding

# Chosen on 250 photos of the training split, but for what concerns all of a kind: see docs/looking.md.
NOT_THERE = {Wants.PLACE: 0.15, Wants.PLACES: 0.5, Wants.COLOUR: 0.2, Wants.NUMBER: 0.3, Wants.SIDE: 0.2}
"""Presence below which an answer says that it sees none. Who asks where a thing is mostly knows that it is there, but
not who asks for all of a kind."""
CANNOT_POINT = 0.25
"""Confidence of a box below which an answer says that it cannot point at the thing."""
DOUBTFUL_BOX = 0.5
"""Confidence of a box under which the answer begins with "Not sure"."""
# That the likeliest colour is right, and that a thing has a colour; fitted on 248 and 127 questions: docs/looking.md.
_RIGHT_COLOUR, _HAS_COLOUR = (0.72, 0.40), (0.98, 2.35)
# How often the side is right where the middles are so far apart: 39 of 46 held-out questions.
_RIGHT_SIDE, _APART = 0.85, 0.05
_DOUBTFUL = 0.5  # presence by the read-out below which the language model is asked, too
_SAME_THING = 0.3  # IoU from which the box of a read-out and one of the detector mean one thing
_SAME_BOX = 0.8  # IoU from which a box was drawn already for something else
_IN_ASKED_BOX = 0.5  # IoU from which a thing is what a box holds


def answer_of(
    intent: Intent,
    eyes: Eyes,
    request: Request,
    cancel: threading.Event | None = None,
    small: MeasuredCard | None = None,
) -> Said | None:
    """What the eyes say; None where they know nothing of it, and the model answers by itself.

    Args:
        intent: of the request's question.
        eyes: on the request's picture.
        request: for what the model has to say first, a caption.
        cancel: when set, that ends early.
        small: the card of a model whose own boxes are worth nothing, so that what the eyes do not know has none.
    """
    match intent.wants:
        case Wants.PLACE:
            return _place(intent, eyes) or (_cannot_point(intent) if small else None)
        case Wants.PLACES:
            return _places(intent, eyes) or (_cannot_point(intent) if small else None)
        case Wants.NUMBER:
            return _number(intent, eyes)
        case Wants.PRESENCE:
            return _presence(intent, eyes)
        case Wants.NAME:
            return _name(intent, eyes)
        case Wants.CAPTION:
            return grounded_caption(eyes, request, small, cancel) if small else _caption(eyes, request, cancel)
        case Wants.COLOUR:
            return _colour(intent, eyes)
        case Wants.SIDE:
            return _side(intent, eyes)


def _place(intent: Intent, eyes: Eyes) -> Said | None:
    finding = eyes.find(intent.phrase, several=intent.several)
    if finding is None:
        return _detected(intent, eyes)
    if gone := _gone(intent, eyes, finding):
        return gone
    claims = _refined(eyes, finding, intent.phrase)
    if not claims:
        if (said := _detected(intent, eyes)) and (said.claims[0].confidence or 0) >= CANNOT_POINT:
            return said
        return _cannot_point(intent, max(finding.confidence, default=0.0), _source(finding))
    return _written(intent, claims)


def _places(intent: Intent, eyes: Eyes) -> Said | None:
    said = _detected(intent, eyes)
    finding = eyes.find(intent.phrase, several=True)
    if finding is None:
        return said
    # A box of the detector that is likelier right than wrong needs no second witness.
    sure = said is not None and any((claim.confidence or 0) >= 0.5 for claim in said.claims)
    if not sure and (gone := _gone(intent, eyes, finding)):
        return replace(gone, text=ABSENT) if intent.tag else gone
    if said is not None:
        return said
    claims = boxes_of(intent.phrase, finding.boxes, finding.confidence, _source(finding))
    # One box is always kept: the thing is there.
    kept = [claim for claim in claims if (claim.confidence or 0) >= CANNOT_POINT] or list(claims[:1])
    return _written(intent, tuple(kept)) if kept else None


def _number(intent: Intent, eyes: Eyes) -> Said | None:
    if not _is_plain_noun(intent.phrase):
        return None
    finding = eyes.find(intent.phrase, several=True)
    if finding is not None and finding.source == SHOWN:
        number = len(finding.boxes) if finding.presence >= 0.5 else 0
        claim = Claim(_counted(number, intent.phrase), None, finding.presence, SHOWN)
        return Said(str(number) if intent.tag else counted(number, intent.phrase), (claim,))
    count = eyes.counted(intent.phrase)
    if count is None or count.number is None:
        return None
    at_least = bool(count.at_least and count.number)
    if intent.tag:
        claims = tuple(Claim(intent.phrase, box, None, "detector") for box in count.boxes)
        claims = claims or (Claim(_counted(0, intent.phrase), None, None, "detector"),)
        return Said(f"at least {count.number}" if at_least else str(count.number), claims)
    if count.number == 0:
        # Who asks how many mostly knows that there are some: what the detector overlooks the read-outs may see.
        if finding is not None:
            return _gone(intent, eyes, finding)
        claim = Claim(_counted(0, intent.phrase), None, None, "detector")
        return Said(unsure(f"there are no {intent.phrase}"), (claim,))
    sure = chance_of_number(eyes, intent.phrase, count.number)
    claims = tuple(Claim(intent.phrase, box, sure, "detector") for box in count.boxes)
    said = counted(count.number, intent.phrase, at_least=at_least)
    return Said(said if sure is None or sure >= SURE else unsure(said), claims)


def _presence(intent: Intent, eyes: Eyes) -> Said | None:
    finding = eyes.find(intent.phrase)
    # "a dog in the water": the read-out knows whether there is a dog.
    if finding is None or (finding.source != SHOWN and not names_only(intent.phrase, finding.noun)):
        return None
    chance, source = eyes.presence(finding, intent.phrase)
    if finding.source == SHOWN and finding.noun.lower() == intent.phrase.lower():
        intent = replace(intent, phrase=finding.noun)  # a name as it was given, not as it was asked for
    is_there = chance >= 0.5
    phrase = intent.phrase if is_there else f"no {intent.phrase}"
    sure = max(chance, 1 - chance)
    claims = (Claim(phrase, None, sure, source),)
    if intent.tag:
        return Said("yes" if is_there else "no", claims)
    if sure < SURE:
        return Said(unsure(perhaps_there(intent.phrase, is_there=is_there)), claims)
    return Said(there(intent.phrase, is_there=is_there), claims)


def _colour(intent: Intent, eyes: Eyes) -> Said | None:
    """What colour something has, or whether it has the one that is asked for."""
    if not (colours := eyes.colours(intent.phrase)):
        return None
    if not intent.tag and (gone := _gone(intent, eyes, cast("Finding", eyes.find(intent.phrase)))):
        return gone
    if not intent.colour:
        colour, share = colours[0]
        sure = calibrated(share, _RIGHT_COLOUR)
        return _as_asked(intent, colour, Claim(f"{colour} {intent.phrase}", None, sure, "read-out"))
    if intent.colour not in dict(colours):
        return None
    chance = calibrated(dict(colours)[intent.colour], _HAS_COLOUR)
    claimed = intent.colour if chance >= 0.5 else f"no {intent.colour}"
    claim = Claim(f"{claimed} {intent.phrase}", None, max(chance, 1 - chance), "read-out")
    return _as_asked(intent, "yes" if chance >= 0.5 else "no", claim)


def _side(intent: Intent, eyes: Eyes) -> Said | None:
    """Whether one thing is left or right of another, by the middles of their boxes."""
    found, other = eyes.find(intent.phrase), eyes.find(intent.other)
    if found is None or other is None or found.noun == other.noun:
        return None
    if not intent.tag:
        for phrase, finding in ((intent.phrase, found), (intent.other, other)):
            if gone := _gone(replace(intent, phrase=phrase), eyes, finding):
                return gone
    one, two = found.boxes[0], other.boxes[0]
    gap = (one.x1 + one.x2 - two.x1 - two.x2) / 2
    side = "left" if gap < 0 else "right"
    sure = _RIGHT_SIDE if abs(gap) >= _APART else 0.5
    claim = Claim(f"{intent.phrase} {side} of {intent.other}", None, sure, "read-out")
    return _as_asked(intent, "yes" if side == intent.side else "no", claim)


def _as_asked(intent: Intent, answer: str, claim: Claim) -> Said:
    """A word after a tag, else a sentence, with a doubt where it is doubtful."""
    if intent.tag:
        return Said(answer, (claim,))
    return Said(sentence(answer) if (claim.confidence or 0) >= SURE else unsure(answer), (claim,))


def _name(intent: Intent, eyes: Eyes) -> Said | None:
    """What a person showed, where the question is what this is; all else the model names."""
    best: Claim | None = None
    for name in eyes.library.concepts:
        finding = eyes.find(name, several=intent.box is not None)
        if finding is None or finding.presence < 0.5:
            continue
        boxes = [box for box in finding.boxes if intent.box is None or box.iou(intent.box) >= _IN_ASKED_BOX]
        if boxes and (best is None or finding.presence > (best.confidence or 0)):
            best = Claim(name, boxes[0], finding.presence, SHOWN)
    if best is None:
        return None
    return Said(best.phrase if intent.tag else f"This is {named(best.phrase)}.", (best,))


def _caption(eyes: Eyes, request: Request, cancel: threading.Event | None) -> Said | None:
    """The model's caption; what it mentions has the boxes of the read-outs where they know it."""
    text = "".join(delta.text for delta in eyes.engine.stream(request, cancel))
    pieces, claims = [], []
    used: dict[str, int] = {}
    for segment in parse(text).segments:
        if isinstance(segment, str):
            pieces.append(segment)
            continue
        phrase = segment.phrase or ""
        finding = eyes.find(without_article(phrase), several=means_several(phrase)) if phrase else None
        if finding is None:
            found = tuple(Claim(phrase, box, None, "model") for box in segment.boxes)
        else:
            found = _refined(eyes, finding, phrase)
            if not found:  # named, but not pointed at
                pieces.append(phrase)
                claims.append(Claim(phrase, None, finding.presence, _source(finding)))
                continue
            if len(found) == 1 and used.get(finding.noun):  # "a man ... another man"
                found = _another(eyes, phrase, used[finding.noun]) or found
            used[finding.noun] = used.get(finding.noun, 0) + 1
        pieces.append(_phrase(phrase, [claim.box for claim in found if claim.box]))
        claims += found
    for shown, found in _shown(eyes):
        pieces.append(f" {shown}")
        claims += found
    return Said("".join(pieces), tuple(claims)) if claims else None


def grounded_caption(eyes: Eyes, request: Request, card: MeasuredCard, cancel: threading.Event | None) -> Said:
    """A checked description in which what the read-outs can point at has its boxes; no two things have the same one."""
    text = caption(eyes, request, card, cancel).text
    pieces: list[str] = []
    claims: list[Claim] = []
    place = 0
    for mention in mentions(text, eyes):
        start = text.find(mention.phrase, place)
        if start < 0 or mention.presence is None or mention.presence < _DOUBTFUL:
            continue
        finding = eyes.find(without_article(mention.phrase), several=means_several(mention.phrase))
        taken = [claim.box for claim in claims]
        found = () if finding is None else _refined(eyes, finding, mention.phrase)
        found = tuple(one for one in found if one.box and all(one.box.iou(box) < _SAME_BOX for box in taken if box))
        if found:
            pieces += [text[place:start], _phrase(mention.phrase, [one.box for one in found if one.box])]
            claims += found
            place = start + len(mention.phrase)
    pieces.append(text[place:])
    for shown, more in _shown(eyes):
        pieces.append(f" {shown}")
        claims += more
    return Said("".join(pieces), tuple(claims))


def _shown(eyes: Eyes) -> Iterator[tuple[str, tuple[Claim, ...]]]:
    """What a person showed and is to be seen here: its name with its boxes, and what that claims."""
    for name in eyes.library.concepts:
        finding = eyes.find(name)
        if finding is not None and finding.presence >= 0.5 and (found := _refined(eyes, finding, name)):
            yield _phrase(name, [claim.box for claim in found if claim.box]), found


def _gone(intent: Intent, eyes: Eyes, finding: "Finding") -> Said | None:
    """That the thing is not there, where that is likely enough.

    Its noun decides, without its colour: a colour is said to tell one thing from others of its kind, and the read-outs
    are less sure of it.
    """
    finding = eyes.find(finding.noun) or finding
    chance, source = finding.presence, _source(finding)
    if chance < _DOUBTFUL:
        chance, source = eyes.presence(finding, finding.noun)
    # Nobody knows better of what was shown once: where "is it there" gets a plain no, "where is it" does so, too.
    if chance >= (max(NOT_THERE[intent.wants], 1 - SURE) if source == SHOWN else NOT_THERE[intent.wants]):
        return None
    return Said(f"I see no {intent.phrase}.", (Claim(f"no {intent.phrase}", None, 1 - chance, source),))


def _detected(intent: Intent, eyes: Eyes) -> Said | None:
    """What the detector finds of a noun without further words; None where it finds none or does not know it."""
    if not _is_plain_noun(intent.phrase) or not (seen := eyes.detected(intent.phrase)):
        return None
    wanted = seen if intent.several else seen[:1]
    return _written(intent, tuple(Claim(intent.phrase, box, sure, "detector") for box, sure in wanted))


def _refined(eyes: Eyes, finding: "Finding", phrase: str) -> tuple[Claim, ...]:
    """A finding's boxes that are sure enough, each with the detector's sides where it sees the same thing there."""
    seen = [] if finding.source == SHOWN else list(eyes.detected(finding.noun) or ())
    if len(finding.boxes) == 1 and (claim := _on_its_side(seen, finding, phrase)):
        return (claim,)
    claims = []
    for claim in boxes_of(phrase, finding.boxes, finding.confidence, _source(finding)):
        box = cast(Box, claim.box)
        same = max(seen, key=lambda one: one[0].iou(box), default=None)
        if same is not None and same[0].iou(box) >= _SAME_THING:
            seen.remove(same)
            # Of colours and neighbours the detector knows nothing: it is no surer of "black dog" than the read-outs.
            sure = same[1] if _is_plain_noun(phrase) else min(same[1], claim.confidence or 0)
            claims.append(replace(claim, box=same[0], confidence=sure, source="detector"))
        elif (claim.confidence or 0) >= CANNOT_POINT:
            claims.append(claim)
    return tuple(claims)


def _on_its_side(seen: list[tuple[Box, float]], finding: "Finding", phrase: str) -> Claim | None:
    """Of several that the detector sees, the one on the side that a phrase names: it tells things of a kind apart,
    where the read-outs' map has one patch of all of them. None where the phrase names no side, or there is one only.
    """
    from fourfold.assistant.readouts.choosing import choose
    from fourfold.assistant.readouts.phrase import read_phrase

    sure = [one for one in seen if one[1] >= CANNOT_POINT]
    target = read_phrase(phrase, lambda _: finding.noun) if len(sure) > 1 else None
    if target is None or target.side is None or target.relation is not None:
        return None
    box, chance = choose(sure, target)[0]
    return Claim(phrase, box, chance, "detector")


def _another(eyes: Eyes, phrase: str, used: int) -> tuple[Claim, ...]:
    finding = eyes.find(without_article(phrase), several=True)
    return () if finding is None else _refined(eyes, finding, phrase)[used : used + 1]


def _written(intent: Intent, claims: tuple[Claim, ...]) -> Said:
    """A sentence; after a tag, boxes as the model was taught them: bare for `[refer]`, else behind their words."""
    boxes = sorted((claim.box for claim in claims if claim.box), key=lambda box: (box.x1, box.y1))
    if intent.tag is Task.REFER:
        return Said("<delim>".join(map(format_box, boxes)), claims)
    if intent.tag:
        return Said(format_phrase(intent.phrase, boxes), claims)
    said = here(intent.phrase, boxes)
    known = [claim.confidence for claim in claims if claim.confidence is not None]
    return Said(unsure(said) if known and max(known) < DOUBTFUL_BOX else said, claims)


def _cannot_point(intent: Intent, best: float | None = None, source: Source = "model") -> Said:
    return Said(f"I cannot point at {definite(intent.phrase)}.", (Claim(intent.phrase, None, best, source),))


def _phrase(phrase: str, boxes: list[Box]) -> str:
    return format_phrase(phrase, boxes) if phrase else "<delim>".join(map(format_box, boxes))


def _source(finding: "Finding") -> Source:
    return cast(Source, finding.source)


def _counted(number: int, phrase: str) -> str:
    return f"{number or 'no'} {phrase}"


def _is_plain_noun(phrase: str) -> bool:
    """Whether a phrase is a noun alone, which all that it means can be counted by: not "dogs on the left"."""
    words = words_of(phrase)
    return 0 < len(words) <= 2 and not any(word in COLOURS for word in words)


def names_only(phrase: str, noun: str) -> bool:
    """Whether a phrase says nothing of a thing but its noun and its colour."""
    known = {*words_of(noun), *words_of(plural(noun)), *COLOURS, "grey"}
    return all(word in known or singular(word) in known for word in re.findall(r"[^\W\d_][\w'-]*", phrase.lower()))
