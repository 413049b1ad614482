"""The body of POST /v1/messages, Anthropic's, and the chat request that it stands for.

Fields that this page does not name are handed to chat completions, which honours, ignores or refuses them (`seed`,
`top_k`, `forced_answer`, ...).
"""

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from fourfold.serving.api.body import Body, OneComplaint, Text
from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.translation import chat_request, in_words_of


class TextBlock(Body):
    type: Literal["text"]
    text: Text


class Base64Source(Body):
    type: Literal["base64"]
    media_type: Text
    data: str


class UrlSource(Body):
    type: Literal["url"]
    url: Text


class ImageBlock(Body):
    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: Text
    name: Text
    input: dict[str, Any]


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: Text
    content: (
        Text | Annotated[list[Annotated[TextBlock | ImageBlock, Field(discriminator="type")]], OneComplaint] | None
    ) = None
    is_error: bool | None = None


Block = Annotated[TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class InputMessage(Body):
    role: Literal["user", "assistant", "system"]
    content: Text | Annotated[list[Block], OneComplaint]


class CustomTool(Body):
    type: str | None = Field(None, description="only custom, the default, is served")
    name: Text
    description: Text | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive"]


class OutputConfig(Body):
    effort: str | None = Field(None, description="ignored")
    format: dict[str, Any] | None = Field(None, description="a schema for the answer")


class CountTokensRequest(Body):
    model_config = ConfigDict(extra="allow")

    messages: list[InputMessage] = Field(min_length=1, max_length=2000, fail_fast=True)
    model: Text | None = Field(None, description="a name of /v1/models; the base model where it is left out")
    system: Text | Annotated[list[TextBlock], OneComplaint] | None = None
    tools: list[CustomTool] | None = Field(None, max_length=128, fail_fast=True)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = Field(None, description="not served as enabled: the models here answer at once")
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest):
    max_tokens: int = Field(ge=1, le=2**31)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    stop_sequences: list[Text] | None = Field(None, max_length=16)
    stream: bool | None = None
    metadata: dict[str, Any] | None = None


_UNSERVED = {
    "container": "this server runs no code",
    "context_management": "nothing is taken out of a conversation; send what the model is to read",
    "mcp_servers": "this server calls no other servers",
}
_CHAT_NAMES = {
    "stop": "stop_sequences",
    "max_completion_tokens": "max_tokens",
    "response_format": "output_config.format",
    "n": "nothing: a message is one answer",
    "logprobs": "nothing: this API has no place for them",
    "stream_options": "nothing: the usage always comes",
}
"""Fields of chat completions, and what to use here."""


def as_chat(body: CountTokensRequest) -> tuple[ChatRequest, dict[str, str]]:
    """The chat request, and its places by their names in `body`, see `in_words_of`.

    Raises:
        ApiError: a field asks for something this server does not do.
    """
    _check(body)
    messages, places = _messages(body)
    fields = {**(body.model_extra or {}), "messages": messages, "model": body.model}
    if isinstance(body, MessagesRequest):
        fields |= {
            "max_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "stop": body.stop_sequences,
            "stream": body.stream,
        }
        if body.top_k is not None:
            fields["top_k"] = body.top_k
    if messages[-1]["role"] == "assistant":  # here it begins the answer
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    if body.tools:
        fields["tools"] = [_tool(tool, number) for number, tool in enumerate(body.tools)]
        for number in range(len(body.tools)):
            places[f"tools.{number}.function"] = f"tools.{number}"
            places[f"tools.{number}.function.parameters"] = f"tools.{number}.input_schema"
    if (choice := body.tool_choice) is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        fields["tool_choice"] = {"any": "required", "tool": named}.get(choice.type, choice.type)
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if body.output_config is not None and (format := body.output_config.format) is not None:
        schema = {"name": "answer", "schema": format.get("schema"), "strict": True}
        is_schema = format.get("type") == "json_schema"
        if is_schema and schema["schema"] is None:  # chat completions take its lack for any object
            param = "output_config.format.schema"
            raise ApiError(400, f"{param} is missing", param=param, code="invalid_value")
        fields["response_format"] = {"type": "json_schema", "json_schema": schema} if is_schema else format
    places |= {
        "stop": "stop_sequences",
        "response_format": "output_config.format",
        "response_format.json_schema": "output_config.format",
        "continue_final_message": f"messages.{len(body.messages) - 1}",
    }
    with in_words_of(places):
        return chat_request(fields), places


def _check(body: CountTokensRequest) -> None:
    extra = body.model_extra or {}
    for field, why in _UNSERVED.items():
        if extra.get(field):
            raise ApiError(400, f"{field} is not supported: {why}", param=field, code="unsupported_parameter")
    for field, here in _CHAT_NAMES.items():
        if extra.get(field) is not None:
            message = f"{field} is a field of chat completions; here it is {here}"
            raise ApiError(400, message, param=field, code="unsupported_parameter")
    if body.thinking is not None and body.thinking.type == "enabled":
        message = "thinking is not supported: the models here answer without thinking aloud; leave it out"
        raise ApiError(400, message, param="thinking", code="unsupported_parameter")


def _messages(body: CountTokensRequest) -> tuple[list[dict[str, Any]], dict[str, str]]:
    messages: list[dict[str, Any]] = []
    places: dict[str, str] = {}

    def add(message: dict[str, Any], place: str) -> str:
        places[at := f"messages.{len(messages)}"] = place
        messages.append(message)
        return at

    if body.system:
        content = body.system if isinstance(body.system, str) else [part.model_dump() for part in body.system]
        add({"role": "system", "content": content}, "system")
    for number, message in enumerate(body.messages):
        place = f"messages.{number}"
        if isinstance(message.content, str):
            add({"role": message.role, "content": message.content}, place)
            continue
        parts: list[dict[str, Any]] = []
        origins: list[str] = []
        calls: list[dict[str, Any]] = []
        for count, block in enumerate(message.content):
            origin = f"{place}.content.{count}"
            if isinstance(block, ToolResultBlock):  # a message of its own there
                told = block.content or ""
                result = told if isinstance(told, str) else [_part(part) for part in told]
                add({"role": "tool", "tool_call_id": block.tool_use_id, "content": result}, origin)
            elif isinstance(block, ToolUseBlock):
                function = {"name": block.name, "arguments": json.dumps(block.input)}
                calls.append({"id": block.id, "type": "function", "function": function})
            else:
                parts.append(_part(block))
                origins.append(origin)
        if parts or calls or not message.content:
            added = {"role": message.role, "content": parts or None}
            at = add({**added, "tool_calls": calls} if calls else added, place)
            places |= {f"{at}.content.{count}": origin for count, origin in enumerate(origins)}
    return messages, places


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if isinstance(source, UrlSource) else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: CustomTool, number: int) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        message = f"tools.{number}: this server runs no tools of its own; send tools with a name and an input_schema"
        raise ApiError(400, message, param=f"tools.{number}.type", code="unsupported_parameter")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": {**function, "strict": tool.strict}}
