"""An example of a concept: a picture, boxes in it, and the name of what they hold."""

import json
import re
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, Strict, with_config

from fourfold.assistant.chat.intent import without_article
from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.refine.questions import asked_phrase
from fourfold.assistant.refine.record import CorrectedBox, Correction, box_of
from fourfold.assistant.refine.targets import annotations, control_token
from fourfold.assistant.validation import FORBID_UNKNOWN, validated
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, instruction, task_of

MAX_NAME = 60
"""Characters of a concept's name."""
MAX_BOXES = 50
_NAME_WORDS = 4  # more is a sentence about a thing
LEAST_AREA = 1e-4
"""Part of the picture; a smaller box is a slip of the hand."""


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture that shows a concept, or does not.

    Attributes:
        name: of the concept, as people wrote it: "Rex", "our bracket". Upper and lower case are the same.
        boxes: where it is; of a negative example where something else was taken for it, none for the whole picture.
        positive: False for "that is not it".
        consent: whether adapters may be trained with it as well.
        image: SHA-256 (hex) of the image file; "" until it is stored.
        created: seconds since 1970; 0 until it is stored.
        correction: id of the correction that it was made of; None for what was shown by itself.
        id: "" until it is stored.
    """

    name: Annotated[str, Strict()]
    boxes: Annotated[tuple[Annotated[Box, BeforeValidator(box_of)], ...], Field(max_length=MAX_BOXES)] = ()
    positive: Annotated[bool, Strict()] = True
    consent: Annotated[bool, Strict()] = True
    image: str = ""
    created: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] = 0.0
    correction: str | None = None
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""


def checked(example: Example) -> Example:
    """The example with a tidy name.

    Raises:
        UserError: it has no usable name, no box, or a box without area.
    """
    example = replace(validated(Example, vars(example)), name=concept_name(example.name))
    if example.positive and not example.boxes:
        raise UserError(f"draw a box around {example.name}: a concept without any box shows nothing")
    if any(box.area < LEAST_AREA for box in example.boxes):
        raise UserError("a box has no area; draw it around the thing")
    return example


def concept_name(text: str) -> str:
    """A name in one spelling: "the  Red mug" → "Red mug".

    Raises:
        UserError: it is empty, too long, or nothing that could stand in an answer.
    """
    name = without_article(" ".join(text.split()).strip(" .,;:!?\"'"))
    if not name:
        raise UserError("the concept needs a name")
    if len(name) > MAX_NAME:
        raise UserError(f"the concept's name has {len(name)} characters; {MAX_NAME} are enough for a name")
    if not name.isprintable() or re.search(r"[<>{}\[\]]", name) or control_token(name):
        raise UserError("the concept's name holds characters that an answer cannot hold; use words")
    return name


def examples_of(correction: Correction) -> list[Example]:
    """What a correction's boxes show: each phrase is a concept, and what was wrongly boxed is none.

    A rectangle that was asked about is one too where its right name is given. None where it is not to be remembered.
    """
    if not correction.remember or correction.verdict == "up":
        return []
    shown: dict[str, list[Box]] = {}
    for marked in annotations(correction):
        shown.setdefault(marked.phrase or "", []).append(marked.box)
    if correction.boxes is None and (named := _named_region(correction)) is not None:
        shown[named[0]] = [named[1]]
    made = [Example(name=phrase, boxes=tuple(boxes), created=correction.created) for phrase, boxes in shown.items()]
    asked = asked_phrase(correction.question)
    if asked and correction.boxes == ():
        made.append(Example(name=asked, boxes=parse(correction.rejected).boxes, positive=False))
    found = []
    for example in made:
        try:
            whole = checked(example)
        except UserError:  # a sentence, a line: nothing one could look for
            continue
        consent = correction.consent
        found.append(
            replace(
                whole, image=correction.image, created=correction.created, correction=correction.id, consent=consent
            )
        )
    return found


def _named_region(correction: Correction) -> tuple[str, Box] | None:
    """The right name of what a question points at, and where; None where there is no such thing."""
    if task_of(correction.question) is not Task.IDENTIFY or correction.chosen is None:
        return None
    boxes, name = parse(correction.question).boxes, parse(correction.chosen).plain.strip()
    return (name, boxes[0]) if len(boxes) == 1 and len(name.split()) <= _NAME_WORDS else None


def correction_of(example: Example) -> Correction | None:
    """What an example teaches when an adapter is trained: where the thing is, or that it is nowhere.

    None where it may not be used for that, where it was made of a correction, which is learnt from by itself, and where
    it only says what the thing is not.
    """
    if not example.consent or example.correction is not None or (example.boxes and not example.positive):
        return None
    question = instruction(Task.DETECTION, example.name)
    return Correction(
        messages=({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},),
        rejected="",
        boxes=tuple(CorrectedBox(example.name, box) for box in example.boxes),
        consent=True,
        created=example.created,
        id=example.id,
        image=example.image,
    )


def insert_examples(connection: sqlite3.Connection, examples: Iterable[Example]) -> list[Example]:
    """Add checked examples whose images are there; returns them as stored."""
    stored = []
    for example in examples:
        stored.append(replace(example, id=example.id or uuid.uuid4().hex, created=example.created or time.time()))
        connection.execute(
            "INSERT INTO concept_examples (id, name, image, boxes, positive, consent, created, correction) "
            "VALUES (:id, :name, :image, :boxes, :positive, :consent, :created, :correction)",
            {**to_fields(stored[-1]), "boxes": json.dumps(to_fields(stored[-1])["boxes"])},
        )
    return stored


def to_fields(example: Example) -> dict[str, Any]:
    """The example as JSON values."""
    return {**vars(example), "boxes": [list(box.as_tuple()) for box in example.boxes]}


def from_fields(fields: Mapping[str, Any]) -> Example:
    """The example of what `to_fields` gives.

    Raises:
        UserError: a field is unknown or has the wrong type, or as `checked`.
    """
    return checked(validated(Example, dict(fields)))
