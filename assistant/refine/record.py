"""A correction: what was asked about an image, what the model said, and what a person says it should have said."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fourfold.assistant.grounding import Box
from fourfold.prompts.errors import UserError

Verdict = Literal["up", "down"]
Message = Mapping[str, Any]
"""An OpenAI message: `role` and `content`, text or parts `{"type": "text", "text": ...}` and `{"type": "image"}`."""

MAX_TEXT = 20_000
"""Characters that one text of a record may have; a context holds far less."""
MAX_MESSAGES = 200
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class CorrectedBox:
    """Where something is.

    Attributes:
        phrase: what it is; None where the box came without words.
        box: in parts of the image.
    """

    phrase: str | None
    box: Box


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One record. `check` says whether it makes sense; the store takes no other.

    Attributes:
        id: letters, digits, `-` and `_`; "" until the store gives it one.
        image: SHA-256 (hex) of the image file's bytes; "" until the store has read them.
        messages: the conversation up to and including the question. `{"type": "image"}` parts stand for the record's
            image; there is at least one.
        rejected: the model's answer.
        chosen: the right answer; None where there is only a verdict, or only boxes were corrected.
        boxes: the right boxes, none of them where nothing is to be found; None where boxes were not corrected.
        verdict: "up" for a good answer, "down" for one that needs correcting.
        consent: whether it may be learnt from.
        model, adapter: who answered.
        parameters: sampling parameters of the answer; JSON values.
        created: seconds since 1970; 0 until the store sets it.
    """

    id: str = ""
    image: str = ""
    messages: tuple[Message, ...]
    rejected: str
    chosen: str | None = None
    boxes: tuple[CorrectedBox, ...] | None = None
    verdict: Verdict = "down"
    consent: bool = False
    model: str = ""
    adapter: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0

    @property
    def question(self) -> str:
        """The text of the last message, its task tag included."""
        return text_of(self.messages[-1])


def text_of(message: Message) -> str:
    """The text of a message without its images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def check(correction: Correction) -> None:
    """Refuse a record that makes no sense.

    Raises:
        UserError: a value has the wrong type or is out of range, or the parts contradict each other; names which.
    """
    c = correction
    if c.id and not (isinstance(c.id, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", c.id)):
        raise UserError("id must be 1 to 64 letters, digits, - or _")
    _check_messages(c.messages)
    _check_text("rejected", c.rejected, empty=True)
    if c.chosen is not None:
        _check_text("chosen", c.chosen)
    if c.boxes is not None:
        if not isinstance(c.boxes, tuple) or not all(isinstance(box, CorrectedBox) for box in c.boxes):
            raise UserError("boxes must be a tuple of CorrectedBox, or None")
        for number, box in enumerate(c.boxes):
            if box.phrase is not None:
                _check_text(f"boxes[{number}].phrase", box.phrase)
    if c.verdict not in get_args(Verdict):
        raise UserError('verdict must be "up" or "down"')
    if not isinstance(c.consent, bool):
        raise UserError("consent must be true or false")
    _check_text("model", c.model, empty=True)
    if c.adapter is not None:
        _check_text("adapter", c.adapter)
    if not isinstance(c.parameters, Mapping):
        raise UserError("parameters must be an object of names and values")
    try:
        if len(json.dumps(dict(c.parameters), allow_nan=False)) > MAX_TEXT:
            raise UserError(f"parameters must be shorter than {MAX_TEXT:,} characters of JSON")
    except (TypeError, RecursionError) as error:
        raise UserError(f"parameters must hold JSON values only ({error})") from None
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError("parameters must hold finite numbers") from None
    if isinstance(c.created, bool) or not isinstance(c.created, int | float) or not 0 <= c.created < math.inf:
        raise UserError("created must be a time in seconds since 1970")
    if c.verdict == "up" and (c.chosen is not None or c.boxes is not None):
        raise UserError('an answer with verdict "up" is right as it is; leave out chosen and boxes, or say "down"')
    if c.boxes is None and c.chosen is not None and c.chosen.strip() == c.rejected.strip():
        raise UserError("chosen is the same text as rejected, so nothing is corrected")


def to_fields(correction: Correction) -> dict[str, Any]:
    """The record as JSON values, everything but its image."""
    c = correction
    boxes = None if c.boxes is None else [{"phrase": b.phrase, "box": list(b.box.as_tuple())} for b in c.boxes]
    return {
        "messages": list(c.messages),
        "rejected": c.rejected,
        "chosen": c.chosen,
        "boxes": boxes,
        "consent": c.consent,
        "verdict": c.verdict,
        "model": c.model,
        "adapter": c.adapter,
        "parameters": dict(c.parameters),
        "created": c.created,
        "id": c.id,
    }


def from_fields(fields: Mapping[str, Any], image: str = "") -> Correction:
    """The record of what `to_fields` gives. Types and ranges of the rest are `check`'s to look at.

    Args:
        fields: `messages`, `rejected` and `consent` are needed; what else is missing takes its default.
        image: SHA-256 of the image.

    Raises:
        UserError: a field is missing or unknown, or the boxes are none.
    """
    known = set(Correction.__dataclass_fields__) - {"image"}
    if unknown := sorted(set(fields) - known):
        raise UserError(f"{unknown[0]!r} is no field of a correction; there are: image, {', '.join(sorted(known))}")
    for name in ("messages", "rejected", "consent"):
        if name not in fields:
            raise UserError(f"{name!r} is missing")
    values = dict(fields)
    if not isinstance(values["messages"], list):
        raise UserError("messages must be a list")
    values["messages"] = tuple(values["messages"])
    if values.get("boxes") is not None:
        values["boxes"] = _read_boxes(values["boxes"])
    return Correction(image=image, **values)


def _read_boxes(boxes: Any) -> tuple[CorrectedBox, ...]:
    if not isinstance(boxes, list):
        raise UserError("boxes must be a list, or null")
    found = []
    for number, entry in enumerate(boxes):
        place = f"boxes[{number}]"
        if not isinstance(entry, dict) or not set(entry) <= {"phrase", "box"}:
            raise UserError(f'{place} must be of the form {{"phrase": text or null, "box": [x1, y1, x2, y2]}}')
        sides = entry.get("box")
        if (
            not isinstance(sides, list)
            or len(sides) != 4
            or not all(isinstance(side, int | float) and not isinstance(side, bool) for side in sides)
        ):
            raise UserError(f"{place}.box must be four numbers")
        try:
            found.append(CorrectedBox(entry.get("phrase"), Box(*(float(side) for side in sides))))
        except (ValueError, OverflowError):
            message = f"{place}.box must be [x1, y1, x2, y2] in parts of the image, 0 <= x1 <= x2 <= 1, the same for y"
            raise UserError(message) from None
    return tuple(found)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, tuple) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise UserError(f"messages must be 1 to {MAX_MESSAGES} messages")
    images = 0
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"} or message["role"] not in _ROLES:
            raise UserError(f"{place} must have a role ({', '.join(_ROLES)}) and a content, and nothing else")
        content = message["content"]
        if isinstance(content, str):
            _check_text(f"{place}.content", content, empty=message["role"] != "user")
            continue
        if not isinstance(content, Sequence) or not content or len(content) > MAX_MESSAGES:
            raise UserError(f"{place}.content must be text or a list of parts")
        for part in content:
            match part:
                case {"type": "text", "text": text, **rest} if not rest:
                    _check_text(f"{place}.content", text)
                case {"type": "image", **rest} if not rest and message["role"] == "user":
                    images += 1
                case _:
                    raise UserError(f'{place}: a part must be {{"type": "text", "text": ...}}, or a user\'s image')
    if not images:
        raise UserError("no message shows the image; put an image part into the one that does")
    if messages[-1]["role"] != "user" or not text_of(messages[-1]).strip():
        raise UserError("the last message must be the user's question")


def _check_text(name: str, text: Any, *, empty: bool = False) -> None:
    if not isinstance(text, str):
        raise UserError(f"{name} must be text")
    if not (empty or text.strip()):
        raise UserError(f"{name} is empty")
    if len(text) > MAX_TEXT:
        raise UserError(f"{name} has {len(text):,} characters, the limit is {MAX_TEXT:,}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{name} holds half of a character (a lone surrogate)")
