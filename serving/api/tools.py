"""Functions that a client offers, which of them may be called, and the calls in earlier turns."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from fourfold.serving.api.body import Body, Text
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.forms import closed
from fourfold.serving.api.tool_calls import CallReader, ForcedCallReader, ToolCallReader
from fourfold.serving.engine.requests import StructuredOutputs

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
MOST_TOOLS = 128


class FunctionDefinition(Body):
    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of an object; none where left out")
    strict: bool | None = Field(None, description="arguments of forced calls keep to the schema either way")


class Tool(Body):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    name: Name


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(Body):
    name: Name
    arguments: Text


class ToolCall(Body):
    """A call in an assistant's message, as replayed by clients."""

    id: Text = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self, place: str) -> dict[str, Any]:
        """As chat templates take it, with arguments as an object.

        Raises:
            ApiError: they are none; `place` says where.
        """
        try:
            arguments = json.loads(self.function.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            param = f"{place}.function.arguments"
            raise ApiError(400, f"{param} must be a JSON object, as text", param=param, code="invalid_value")
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class ToolFields(Body):
    """Fields of a chat request about tools."""

    tools: list[Tool] | None = Field(None, max_length=MOST_TOOLS, description="functions; at most 128")
    tool_choice: ToolChoice | None = Field(None, description="`auto` where the chat template declares tools")
    parallel_tool_calls: bool | None = Field(None, description="an answer has one call where a call is forced")

    @cached_property
    def tool_use(self) -> "ToolUse":
        return ToolUse(self.tools, self.tool_choice)


class ToolUse:
    """What a request allows of its tools.

    Attributes:
        tools: for chat templates; none where no call is wanted.
        names: of those that may be called.
        forced: whether the answer has to be a call.

    Raises:
        ApiError: the tools and the choice among them do not go together.
    """

    def __init__(self, tools: Sequence[Tool] | None, choice: ToolChoice | None) -> None:
        functions = {tool.function.name: tool.function for tool in tools or ()}
        if len(functions) < len(tools or ()):
            raise ApiError(400, "two tools have the same name; rename one", param="tools", code="invalid_value")
        if isinstance(choice, NamedTool):
            name = choice.function.name
            if name not in functions:
                message = f"tool_choice names {name}, which is not among the tools"
                raise ApiError(400, message, param="tool_choice", code="invalid_value")
            functions = {name: functions[name]}
        elif choice == "required" and not functions:
            raise ApiError(400, "tool_choice is required, but there are no tools", param="tool_choice")
        elif choice == "none":
            functions = {}
        self.tools: list[dict[str, Any]] = [
            {"type": "function", "function": function.model_dump(exclude_none=True, exclude={"strict"})}
            for function in functions.values()
        ]
        self.names = frozenset(functions)
        self.forced = bool(functions) and choice not in (None, "auto")

    def reader(self) -> CallReader | None:
        """For an answer of its own each; None where there is nothing to call."""
        if not self.names:
            return None
        return ForcedCallReader() if self.forced else ToolCallReader(self.names)

    def form(self) -> StructuredOutputs:
        """The form of a forced call: `{"name": ..., "arguments": {...}}`, as `prompts.tools.written_call` writes it."""
        parameters = {
            f"arguments-{tool['function']['name']}": _arguments(tool["function"].get("parameters"))
            for tool in self.tools
        }
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/arguments-{name}"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name in (tool["function"]["name"] for tool in self.tools)
        ]
        defs = {name: _moved(schema, f"#/$defs/{name}") for name, schema in parameters.items()}
        return StructuredOutputs("json", json.dumps({"$defs": defs, "anyOf": calls}, ensure_ascii=False))


def _arguments(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A schema of arguments: an object, and one without arguments that nobody named."""
    with contextlib.suppress(RecursionError):  # what is wrong with it is said when it is compiled
        return closed({"type": "object", "properties": {}, **(parameters or {})})
    return dict(parameters or {})


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to itself still hold where it is a part of another."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, place) for key, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
