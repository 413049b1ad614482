"""A correction: what was asked about an image, what the model said, and what a person says it should have said."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    Strict,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    with_config,
)
from typing_extensions import TypedDict

from fourfold.assistant.grounding import Box
from fourfold.assistant.validation import FORBID_UNKNOWN, validated
from fourfold.prompts.errors import UserError

MAX_TEXT = 20_000
"""Characters that one text of a record may have; a context holds far less."""
MAX_MESSAGES = 200

Verdict = Literal["up", "down"]


def _not_blank(text: str) -> str:
    if not text.strip():
        raise UserError("is empty")
    return text


def box_of(sides: Any) -> Any:
    if isinstance(sides, Box):
        return sides
    if (
        not isinstance(sides, list | tuple)
        or len(sides) != 4
        or not all(isinstance(side, int | float) and not isinstance(side, bool) for side in sides)
    ):
        raise UserError("must be four numbers")
    try:
        return Box(*(float(side) for side in sides))
    except (ValueError, OverflowError):
        message = "must be [x1, y1, x2, y2] in parts of the image, 0 <= x1 <= x2 <= 1, the same for y"
        raise UserError(message) from None


def _short_json(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        text = json.dumps(dict(parameters), allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise UserError(f"must hold JSON values only ({error})") from None
    except ValueError:
        raise UserError("must hold finite numbers") from None
    if len(text) > MAX_TEXT:
        raise UserError(f"must be shorter than {MAX_TEXT:,} characters of JSON")
    return parameters


_Text = Annotated[str, Field(max_length=MAX_TEXT)]
_Words = Annotated[_Text, AfterValidator(_not_blank)]


@with_config(FORBID_UNKNOWN)
class _Part(TypedDict):
    type: Literal["text", "image"]
    text: NotRequired[_Words]


def _with_text_or_without(part: _Part) -> _Part:
    if ("text" in part) != (part["type"] == "text"):
        raise UserError('must be {"type": "text", "text": ...} or {"type": "image"}')
    return part


def _text_or_parts(content: Any, parts: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(content, str):
        return validated(_Text, content)
    if not isinstance(content, list | tuple):
        raise UserError("must be text or a list of parts")
    return parts(content)


@with_config(FORBID_UNKNOWN)
class _Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: Annotated[
        list[Annotated[_Part, AfterValidator(_with_text_or_without)]],
        Field(min_length=1, max_length=MAX_MESSAGES),
        WrapValidator(_text_or_parts),
    ]


Message = Annotated[Mapping[str, Any], GetPydanticSchema(lambda _, handler: handler(_Message))]
"""An OpenAI message: `role` and `content`, text or parts `{"type": "text", "text": ...}` and `{"type": "image"}`."""


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class CorrectedBox:
    """Where something is.

    Attributes:
        phrase: what it is; None where the box came without words.
        box: in parts of the image.
    """

    phrase: Annotated[_Words | None, Field(default=None)]
    box: Annotated[Box, BeforeValidator(box_of)]


@with_config(FORBID_UNKNOWN)
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
        consent: whether an adapter may be trained with it.
        remember: whether the memory gives it back, and its boxes are things shown once. It does neither for an answer
            that was right.
        model, adapter: who answered.
        parameters: sampling parameters of the answer; JSON values.
        created: seconds since 1970; 0 until the store sets it.
    """

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES)]
    rejected: _Text
    chosen: _Words | None = None
    boxes: tuple[CorrectedBox, ...] | None = None
    consent: Annotated[bool, Strict()] = False
    remember: Annotated[bool, Strict()] = True
    verdict: Verdict = "down"
    model: _Text = ""
    adapter: _Words | None = None
    parameters: Annotated[Mapping[str, Any], AfterValidator(_short_json)] = field(default_factory=dict)
    created: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)] = 0.0
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    image: str = ""

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
    _record(vars(correction))


def to_fields(correction: Correction) -> dict[str, Any]:
    """The record as JSON values, everything but its image."""
    fields = {name: value for name, value in vars(correction).items() if name != "image"}
    boxes = correction.boxes
    return {
        **fields,
        "messages": list(correction.messages),
        "boxes": None if boxes is None else [{"phrase": b.phrase, "box": list(b.box.as_tuple())} for b in boxes],
        "parameters": dict(correction.parameters),
    }


def from_fields(fields: Mapping[str, Any], image: str = "") -> Correction:
    """The record of what `to_fields` gives.

    Args:
        fields: `messages`, `rejected` and `consent` are needed; what else is missing takes its default. What does not
            say whether it is remembered comes from when consent was for that too.
        image: SHA-256 of the image.

    Raises:
        UserError: a field is missing or unknown, or as `check`.
    """
    known = set(Correction.__dataclass_fields__) - {"image"}
    if unknown := sorted(set(fields) - known):
        raise UserError(f"{unknown[0]!r} is no field of a correction; there are: image, {', '.join(sorted(known))}")
    if "consent" not in fields:  # what is learnt from is never a matter of defaults
        raise UserError("consent is missing")
    return _record({"remember": fields["consent"], **fields, "image": image})


def _record(values: Mapping[str, Any]) -> Correction:
    """The correction of these values, whose parts go together."""
    c = validated(Correction, values)
    shown = 0
    for number, message in enumerate(c.messages):
        parts = [] if isinstance(message["content"], str) else message["content"]
        images = sum(part["type"] == "image" for part in parts)
        if message["role"] != "user" and images:
            raise UserError(f"messages[{number}].content: only a user's message shows an image")
        if message["role"] == "user" and not images and not text_of(message).strip():
            raise UserError(f"messages[{number}].content: is empty")
        shown += images
    if not shown:
        raise UserError("no message shows the image; put an image part into the one that does")
    if c.messages[-1]["role"] != "user" or not c.question.strip():
        raise UserError("the last message must be the user's question")
    if c.verdict == "up" and (c.chosen is not None or c.boxes is not None):
        raise UserError('an answer with verdict "up" is right as it is; leave out chosen and boxes, or say "down"')
    if c.boxes is None and c.chosen is not None and c.chosen.strip() == c.rejected.strip():
        raise UserError("chosen is the same text as rejected, so nothing is corrected")
    return c
