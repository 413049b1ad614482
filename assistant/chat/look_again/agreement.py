"""Asking for the same thing in three ways: a number, a yes or no, and boxes must fit together."""

import re
from dataclasses import dataclass

from PIL import Image

from fourfold.assistant.chat.look_again.asking import BudgetedClient, yes_or_no
from fourfold.assistant.chat.look_again.claims import is_there
from fourfold.assistant.english import NUMBERS, plural
from fourfold.assistant.grounding import Box, parse
from fourfold.prompts.tasks import Task, instruction


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
    boxes = [box for phrase in grounded.phrases for box in phrase.boxes]
    if not boxes:
        return () if not grounded.malformed and grounded.plain.strip(" .").lower() in ("none", "no") else None
    kept: list[Box] = []
    for box in boxes:
        if all(box.iou(other) < 0.7 for other in kept):
            kept.append(box)
    return tuple(kept)
