"""A correction that is made in a conversation at the terminal."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fourfold.assistant.grounding import parse
from fourfold.cli.concepts import read_box
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.assistant.refine.record import Correction

_TRAIN = "--train"
_NO_BOX = re.compile(r"[A-Za-z]")


def correction_of(
    messages: Sequence[dict[str, Any]], image: "Image.Image", argument: str, thing: str | None, model: str
) -> "Correction":
    """The record of what `/correct ARGUMENT` says of the last answer.

    Args:
        messages: of the conversation, the last one the answer.
        image: that the answer is about.
        argument: the right answer, or a box in hundredths; behind `--train` an adapter may be trained with it.
        thing: what the box is around, where the question names it.
        model: who answered.

    Raises:
        UserError: it says nothing, or what was said already.
    """
    from fourfold.assistant.refine.record import CorrectedBox, Correction
    from fourfold.serving.looking.sentences import here

    consent = argument.split()[:1] == [_TRAIN]
    right = argument.strip().removeprefix(_TRAIN).strip() if consent else argument.strip()
    if not right:
        raise UserError("say what is right: /correct a red bus, or /correct 10 20 60 90 for a box")
    rejected = str(messages[-1]["content"])
    if right == parse(rejected).plain.strip():
        raise UserError("that is what was answered")
    box = None if _NO_BOX.search(right) or len(re.findall(r"\d+", right)) < 4 else read_box(right)
    return Correction(
        messages=tuple(_told(message, image) for message in messages[:-1]),
        rejected=rejected,
        # With its words, since an answer that has no box ("I see no dog.") has no place for one.
        chosen=right if box is None else here(thing, [box]) if thing else None,
        boxes=None if box is None else (CorrectedBox(thing, box),),
        consent=consent,
        model=model,
    )


def _told(message: dict[str, Any], image: "Image.Image") -> dict[str, Any]:
    """A message as records have it: of its pictures only the one that the record keeps, and no pixels."""
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if part["type"] == "text":
            parts.append(part)
        elif part["image"] is image:
            parts.append({"type": "image"})
    return {**message, "content": parts}
