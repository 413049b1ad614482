"""What the eyes say to a question, in the words and the written form in which the model would have said it."""

import re
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from fourfold.assistant.chat.intent import Intent, Wants, without_article
from fourfold.assistant.english import COLOURS, number_of, plural, singular, words_of
from fourfold.assistant.grounding import Box, format_box, format_phrase, parse
from fourfold.assistant.training.data.photo_tasks import ABSENT
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.requests import Request
from fourfold.serving.looking.claim import Claim, Source, boxes_of
from fourfold.serving.looking.eyes import SHOWN, Eyes

if TYPE_CHECKING:
    from fourfold.assistant.readouts import Finding

# Chosen on 250 photos of the training split, but for what concerns all of a kind: see docs/looking.md.
NOT_THERE = {Wants.PLACE: 0.15, Wants.PLACES: 0.5}
"""Presence below which an answer says that it sees none. Who asks where a thing is mostly knows that it is there, but
not who asks for all of a kind."""
CANNOT_POINT = 0.25
"""Confidence of a box below which an answer says that it cannot point at the thing."""
_DOUBTFUL = 0.5  # presence by the read-out below which the language model is asked, too
_SAME_THING = 0.3  # IoU from which the box of a read-out and one of the detector mean one thing
_IN_ASKED_BOX = 0.5  # IoU from which a thing is what a box holds


@dataclass(frozen=True)
class Said:
    """An answer of the eyes, and what it claims."""

    text: str
    claims: tuple[Claim, ...]


def answer_of(intent: Intent, eyes: Eyes, request: Request, cancel: threading.Event | None = None) -> Said | None:
    """What the eyes say; None where they know nothing of it, and the model answers by itself.

    Args:
        intent: of the request's question.
        eyes: on the request's picture.
        request: for what the model has to say first, a caption.
        cancel: when set, that ends early.
    """
    match intent.wants:
        case Wants.PLACE:
            return _place(intent, eyes)
        case Wants.PLACES:
            return _places(intent, eyes)
        case Wants.NUMBER:
            return _number(intent, eyes)
        case Wants.PRESENCE:
            return _presence(intent, eyes)
        case Wants.NAME:
            return _name(intent, eyes)
        case Wants.CAPTION:
            return _caption(eyes, request, cancel)


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
        best = max(finding.confidence, default=0.0)
        return Said(f"I cannot point at {_the(intent.phrase)}.", (Claim(intent.phrase, None, best, _source(finding)),))
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
        return Said(str(number), (Claim(_counted(number, intent.phrase), None, finding.presence, SHOWN),))
    count = eyes.counted(intent.phrase)
    if count is None:
        return None
    said = f"at least {count.number}" if count.at_least and count.number else str(count.number)
    claims = tuple(Claim(intent.phrase, box, None, "detector") for box in count.boxes)
    return Said(said, claims or (Claim(_counted(0, intent.phrase), None, None, "detector"),))


def _presence(intent: Intent, eyes: Eyes) -> Said | None:
    finding = eyes.find(intent.phrase)
    # "a dog in the water": the read-out knows whether there is a dog.
    if finding is None or (finding.source != SHOWN and not names_only(intent.phrase, finding.noun)):
        return None
    chance, source = eyes.presence(finding, intent.phrase)
    there = chance >= 0.5
    phrase = intent.phrase if there else f"no {intent.phrase}"
    return Said("yes" if there else "no", (Claim(phrase, None, max(chance, 1 - chance), source),))


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
    return None if best is None else Said(best.phrase, (best,))


def _caption(eyes: Eyes, request: Request, cancel: threading.Event | None) -> Said | None:
    """The model's caption; what it mentions has the boxes of the read-outs where they know it."""
    text = ""
    deltas = eyes.engine.stream(request, cancel)
    for delta in deltas:
        text += delta.text
    pieces, claims = [], []
    used: dict[str, int] = {}
    for segment in parse(text).segments:
        if isinstance(segment, str):
            pieces.append(segment)
            continue
        phrase = segment.phrase or ""
        finding = eyes.find(without_article(phrase), several=_means_several(phrase)) if phrase else None
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
    for name in eyes.library.concepts:
        finding = eyes.find(name)
        if finding is not None and finding.presence >= 0.5 and (found := _refined(eyes, finding, name)):
            pieces.append(" " + _phrase(name, [claim.box for claim in found if claim.box]))
            claims += found
    return Said("".join(pieces), tuple(claims)) if claims else None


def _gone(intent: Intent, eyes: Eyes, finding: "Finding") -> Said | None:
    """That the thing is not there, where that is likely enough.

    Its noun decides, without its colour: a colour is said to tell one thing from others of its kind, and the read-outs
    are less sure of it.
    """
    finding = eyes.find(finding.noun) or finding
    chance, source = finding.presence, _source(finding)
    if chance < _DOUBTFUL:
        chance, source = eyes.presence(finding, finding.noun)
    if chance >= NOT_THERE[intent.wants]:
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
    """Boxes as the model was taught to write them: bare for `[refer]`, else behind their words."""
    boxes = sorted((claim.box for claim in claims if claim.box), key=lambda box: (box.x1, box.y1))
    if intent.tag is Task.REFER:
        return Said("<delim>".join(map(format_box, boxes)), claims)
    return Said(format_phrase(intent.phrase, boxes), claims)


def _phrase(phrase: str, boxes: list[Box]) -> str:
    return format_phrase(phrase, boxes) if phrase else "<delim>".join(map(format_box, boxes))


def _source(finding: "Finding") -> Source:
    return cast(Source, finding.source)


def _the(phrase: str) -> str:
    return phrase if phrase[:1].isupper() else f"the {phrase}"  # a name has no article


def _counted(number: int, phrase: str) -> str:
    return f"{number or 'no'} {phrase}"


def _means_several(phrase: str) -> bool:
    words = words_of(phrase)
    return (number_of(phrase) or 1) > 1 or bool(words and singular(words[-1]) != words[-1])


def _is_plain_noun(phrase: str) -> bool:
    """Whether a phrase is a noun alone, which all that it means can be counted by: not "dogs on the left"."""
    words = words_of(phrase)
    return 0 < len(words) <= 2 and not any(word in COLOURS for word in words)


def names_only(phrase: str, noun: str) -> bool:
    """Whether a phrase says nothing of a thing but its noun and its colour."""
    known = {*words_of(noun), *words_of(plural(noun)), *COLOURS, "grey"}
    return all(word in known or singular(word) in known for word in re.findall(r"[^\W\d_][\w'-]*", phrase.lower()))
