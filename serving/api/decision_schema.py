"""The body of POST /v1/decisions, and what it is to the engine."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, field_validator, model_validator

from fourfold.serving.api.body import Body, OneComplaint, Text
from fourfold.serving.api.errors import ApiError
from fourfold.serving.decisions.questions import YES_NO, DecisionQuestion, Option

_JSON_LEVELS, _JSON_VALUES, _JSON_BYTES = 32, 10_000, 256 * 2**10
_TOOLS = ("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")


class InputText(Body):
    type: Literal["input_text"]
    text: Text


class InputImage(Body):
    type: Literal["input_image"]
    image_url: Text = Field(description="data:image/...;base64,... or an allowed https URL")
    detail: str | None = Field(None, description="ignored: every image is read at the model's own size")


class InputJson(Body):
    """Objects that are read as text."""

    type: Literal["input_json"]
    data: dict[str, JsonValue] | list[dict[str, JsonValue]]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        left, level = [self.data], 0
        values = 0
        while left:
            level += 1
            values += len(left)
            inner: list[Any] = []
            for value in left:
                inner += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            if level > _JSON_LEVELS + 1 or values > _JSON_VALUES:
                raise ValueError(f"it has more than {_JSON_LEVELS} levels or {_JSON_VALUES:,} values; send less")
            left = inner
        if len(self.text.encode("utf-8", "replace")) > _JSON_BYTES:
            raise ValueError(f"it is longer than {_JSON_BYTES // 2**10} KiB; send less")
        return self

    @property
    def text(self) -> str:
        return json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))


Part = Annotated[InputText | InputImage | InputJson, Field(discriminator="type")]


class OutputText(Body):
    type: Literal["output_text"]
    text: Text


class OutputRefusal(Body):
    type: Literal["refusal"]
    refusal: Text


class UserInput(Body):
    type: Literal["message"] = "message"
    role: Literal["user"]
    content: Text | Annotated[list[Part], OneComplaint]


class SystemInput(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer"]
    content: Text | Annotated[list[InputText], OneComplaint]


class AssistantInput(Body):
    type: Literal["message"] = "message"
    role: Literal["assistant"]
    content: Text | Annotated[list[Annotated[OutputText | OutputRefusal, Field(discriminator="type")]], OneComplaint]


class ToolInput(Body):
    """Of a conversation with tools: known, and refused."""

    type: Literal["function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"]


def _kind(item: Any) -> str:
    told = item if isinstance(item, dict) else getattr(item, "__dict__", {})
    if told.get("type") in _TOOLS:
        return "tool"
    role = told.get("role")
    return role if role in ("user", "assistant") else "system"


Input = Annotated[
    Annotated[UserInput, Tag("user")]
    | Annotated[AssistantInput, Tag("assistant")]
    | Annotated[SystemInput, Tag("system")]
    | Annotated[ToolInput, Tag("tool")],
    Discriminator(_kind),
]


class _Question(Body):
    name: Text | None = None
    instructions: Text | Annotated[list[Part], OneComplaint]

    @property
    def parts(self) -> Sequence[InputText | InputImage | InputJson]:
        if isinstance(self.instructions, str):
            return [InputText(type="input_text", text=self.instructions)]
        return self.instructions


class Predicate(_Question):
    """How likely it is that a statement about the input is true."""

    type: Literal["predicate"]


class ChoiceValue(Body):
    value: Text | bool
    description: Text | None = None


class Choice(_Question):
    """One of several values; a text and a boolean are distinct, whatever they read."""

    type: Literal["choice"]
    choices: list[ChoiceValue] = Field(min_length=2, max_length=255, fail_fast=True)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        if len({(type(choice.value), choice.value) for choice in self.choices}) < len(self.choices):
            raise ValueError("two choices are the same; leave one out")
        return self


class Level(Body):
    label: Text
    description: Text | None = None


class Score(_Question):
    """One of several levels, from the lowest to the highest."""

    type: Literal["score"]
    levels: list[Level] = Field(min_length=2, max_length=255, fail_fast=True)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        if len({level.label for level in self.levels}) < len(self.levels):
            raise ValueError("two levels have the same label; leave one out")
        return self


class DecisionRequest(Body):
    """`prompt_cache_key`, `prompt_cache_options` and `safety_identifier` change no answer here and are ignored."""

    input: Text | Annotated[list[Input], Field(min_length=1, max_length=1000, fail_fast=True)]
    model: Text | None = Field(None, description="a name of /v1/models; the base model where it is left out")
    questions: list[Annotated[Predicate | Choice | Score, Field(discriminator="type")]] = Field(
        min_length=1, max_length=400
    )

    @field_validator("questions")
    @classmethod
    def _names_differ(cls, questions: list[Predicate | Choice | Score]) -> list[Predicate | Choice | Score]:
        names = [question.name for question in questions if question.name is not None]
        if len(set(names)) < len(names):
            raise ValueError("two questions have the same name; answers are found by it")
        return questions

    def chat(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Fields of a chat request with the input's messages, and behind them one for every question with images.

        So images of input and questions are read and counted together. Also the places of both in this body by those
        in the chat request.

        Raises:
            ApiError: the input holds calls of tools.
        """
        messages: list[dict[str, Any]] = []
        places: dict[str, str] = {}
        if isinstance(self.input, str):
            messages.append({"role": "user", "content": self.input})
            places["messages.0"] = "input"
        else:
            for number, item in enumerate(self.input):
                place = f"input.{number}"
                if isinstance(item, ToolInput):
                    message = "calls of tools cannot be read by this model; send what they told as text"
                    raise ApiError(400, f"{place}: {message}", param=place, code="unsupported_parameter")
                places[f"messages.{len(messages)}"] = place
                messages.append({"role": item.role, "content": _chat_content(item.content)})
        for number, question in self._with_images():
            places[f"messages.{len(messages)}"] = f"questions.{number}"
            places[f"messages.{len(messages)}.content"] = f"questions.{number}.instructions"
            messages.append({"role": "user", "content": _chat_content(question.parts)})
        return {"messages": messages, "model": self.model}, {"messages": "input", **places}

    def asked(self, messages: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[DecisionQuestion]]:
        """Context and questions, from the messages of `chat` with their images decoded."""
        with_images = dict(self._with_images())
        count = len(messages) - len(with_images)
        decoded = dict(zip(with_images, messages[count:], strict=True))
        questions = []
        for number, question in enumerate(self.questions):
            content = decoded[number]["content"] if number in decoded else map(_chat_part, question.parts)
            questions.append(DecisionQuestion(question.type, tuple(content), _options(question), question.name))
        return list(messages[:count]), questions

    def _with_images(self) -> Iterator[tuple[int, Predicate | Choice | Score]]:
        for number, question in enumerate(self.questions):
            if any(isinstance(part, InputImage) for part in question.parts):
                yield number, question


def _options(question: Predicate | Choice | Score) -> tuple[Option, ...]:
    match question:
        case Choice():
            return tuple(Option(choice.value, choice.description or "") for choice in question.choices)
        case Score():
            return tuple(Option(level.label, level.description or "") for level in question.levels)
    return YES_NO


def _chat_content(
    content: str | Sequence[InputText | InputImage | InputJson | OutputText | OutputRefusal],
) -> str | list[dict[str, Any]]:
    """Content as chat completions have it."""
    return content if isinstance(content, str) else list(map(_chat_part, content))


def _chat_part(part: InputText | InputImage | InputJson | OutputText | OutputRefusal) -> dict[str, Any]:
    match part:
        case InputImage():
            return {"type": "image_url", "image_url": {"url": part.image_url}}
        case OutputRefusal():
            return {"type": "refusal", "refusal": part.refusal}
    return {"type": "text", "text": part.text}
