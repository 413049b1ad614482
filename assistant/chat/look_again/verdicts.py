"""What speaks for an answer and against it: each claim looked at again, and one thing asked for in three ways."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from fourfold.assistant.chat.look_again.claims import Claim, is_there
from fourfold.assistant.chat.look_again.client import BudgetedClient, Stopped, around, one_line, yes_or_no
from fourfold.assistant.english import NUMBERS, head_noun, plural, related
from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.prompts.tasks import Task, instruction

Verdict = Literal["supported", "unsupported", "unsure"]


@dataclass(frozen=True)
class Sighting:
    """What somebody else than the model sees of a thing.

    Attributes:
        presence: chance, 0..1, that it is in the image.
        box: where; None for nowhere in particular.
        source: who looked.
    """

    presence: float
    box: Box | None
    source: str


See = Callable[[str], Sighting | None]
"""`see(thing)`; None for a thing that it knows nothing of."""

_SEEN, _NOT_SEEN = 0.7, 0.3  # presence from which a sighting speaks for a thing, and up to which it speaks against it


@dataclass(frozen=True)
class Checked:
    """A claim and what came of looking at it again."""

    claim: Claim
    verdict: Verdict  # "supported" or "unsupported" where the looks agree, otherwise "unsure"
    box: Box | None  # where it was found, or where the answer puts it
    evidence: tuple[str, ...]  # one line a look: what was asked and what the model said

    def to_json(self) -> dict:
        """`{phrase, verdict, box: [x1, y1, x2, y2] in 0..1 or null, evidence}`."""
        phrase = f"no {self.claim.thing}" if self.claim.denied else self.claim.phrase
        box = list(self.box.as_tuple()) if self.box else None
        return {"phrase": phrase, "verdict": self.verdict, "box": box, "evidence": list(self.evidence)}


def check(
    asker: BudgetedClient, image: Image.Image, claims: Sequence[Claim], see: See | None = None
) -> tuple[list[Checked], str | None]:
    """Look at each claim again.

    Up to four questions a claim: is it there (whole image, unless that was the question)? where is it? is it there (the
    crop around its box)? what is in that box? With `see` that one looks as well, and finds the box where it knows the
    thing. Each look speaks for the thing, against it, or not at all. It counts as there with two more looks for it than
    against it, as not there with one more against it than for it.

    Returns:
        A verdict for every claim, and why looking ended early, or None. Claims that were not reached are "unsure".
    """
    done: list[Checked] = []
    for place, claim in enumerate(claims):
        try:
            checked = _look(asker, image, claim, see)
        except Stopped as stop:
            left = [
                Checked(c, "unsure", c.boxes[0] if c.boxes else None, (f"not looked at: {stop}",))
                for c in claims[place:]
            ]
            return done + left, str(stop)
        asker.tell("verdict", f"{claim.phrase}: {checked.verdict}", box=checked.box)
        done.append(checked)
    return done, None


def _look(asker: BudgetedClient, image: Image.Image, claim: Claim, see: See | None) -> Checked:
    evidence: list[str] = []
    votes: list[bool | None] = []

    def vote(look: str, answer: str | None, speaks_for: bool | None) -> None:
        votes.append(speaks_for)
        evidence.append(one_line(f"{look}: {'no answer' if answer is None else answer}"))

    seen = see(claim.thing) if see is not None else None
    if seen is not None:
        speaks_for = True if seen.presence >= _SEEN else False if seen.presence <= _NOT_SEEN else None
        vote(f"seen by {seen.source}", f"{seen.presence:.0%} likely there", speaks_for)
    if not claim.asked:
        answer = asker.question(image, is_there(claim.thing))
        vote("is it there", answer, yes_or_no(answer))
    box = claim.boxes[0] if claim.boxes else None
    if box is None and seen is not None and seen.presence >= _SEEN:
        box = seen.box
    if box is None:
        answer = asker.question(image, instruction(Task.DETECTION, claim.thing))
        found = parse(answer or "").boxes
        box = found[0] if found else None
        says_none = yes_or_no(answer) is False or (answer or "").strip(" .").lower() == "none"
        vote("where is it", answer, True if found else False if says_none else None)
    if box is not None:
        region = around(box)
        answer = asker.question(image, is_there(claim.thing), region=region)
        vote("is it there, seen close by", answer, yes_or_no(answer))
        answer = asker.question(image, instruction(Task.IDENTIFY, format_box(box)))
        vote("what is in its box", answer, _same(claim.thing, answer))
    balance = sum(1 if v else -1 for v in votes if v is not None)
    there = True if balance >= 2 else False if balance <= -1 else None
    verdict: Verdict = "unsure" if there is None else "supported" if there != claim.denied else "unsupported"
    return Checked(claim, verdict, box, tuple(evidence))


def _same(thing: str, answer: str | None) -> bool | None:
    """Whether what a box holds may be the thing; None where the answer names nothing."""
    seen = head_noun(parse(answer or "").plain)
    noun = thing.rpartition(" ")[2]
    return None if seen is None else seen == noun or seen in related(noun)


@dataclass(frozen=True)
class Agreement:
    """Three answers about one thing.

    Attributes:
        thing: what was asked for.
        count: how many the model says there are; None where it gives no number.
        present: what it says to "is there ...?"; None where it says neither yes nor no.
        boxes: where it puts them, doubles left out; None where the answer is neither boxes nor "none".
        agrees: False where two of them contradict each other, None where fewer than two can be compared.
        text: one line for people.
    """

    thing: str
    count: int | None
    present: bool | None
    boxes: tuple[Box, ...] | None
    agrees: bool | None
    text: str


def agree(asker: BudgetedClient, image: Image.Image, thing: str) -> Agreement:
    """Ask how many, whether, and where.

    Raises:
        Stopped: as `BudgetedClient.question`.
    """
    *before, noun = thing.split()
    several = " ".join([*before, plural(noun)])
    count = number_in(asker.question(image, f"{Task.VQA.tag} how many {several} are there?"))
    present = yes_or_no(asker.question(image, is_there(thing)))
    boxes = _distinct(asker.question(image, instruction(Task.DETECTION, thing)))
    found = None if boxes is None else len(boxes)
    agrees = None
    if sum(value is not None for value in (count, present, found)) >= 2:
        numbers_fit = count is None or found is None or count == found
        seen = [number > 0 for number in (count, found) if number is not None]
        agrees = numbers_fit and (present is None or all(value == present for value in seen))
    said = [f"counts {count}" if count is not None else "gives no number"]
    said.append(
        {True: f"says there is a {thing}", False: f"says there is no {thing}", None: "says neither yes nor no"}[present]
    )
    said.append(f"marks {found}" if found is not None else "marks nothing readable")
    text = f"{several}: the model {', '.join(said)}" + (": these contradict each other" if agrees is False else "")
    asker.tell("agreement", text)
    return Agreement(thing, count, present, boxes, agrees, text)


def number_in(answer: str | None) -> int | None:
    """The one number that an answer names, in digits or as a word up to ten; None for none or several."""
    words = re.findall(r"\d+|[a-z]+", parse(answer or "").plain.lower())
    found = {int(w) if w.isascii() and w.isdigit() else NUMBERS.index(w) for w in words if w.isdigit() or w in NUMBERS}
    if not found and words[:1] in (["no"], ["none"]):
        return 0
    return found.pop() if len(found) == 1 else None


def _distinct(answer: str | None) -> tuple[Box, ...] | None:
    if answer is None:
        return None
    grounded = parse(answer)
    if not grounded.boxes:
        return () if not grounded.malformed and grounded.plain.strip(" .").lower() in ("none", "no") else None
    kept: list[Box] = []
    for box in grounded.boxes:
        if all(box.iou(other) < 0.7 for other in kept):
            kept.append(box)
    return tuple(kept)
