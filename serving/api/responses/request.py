"""The body of POST /v1/responses, OpenAI's, and the chat request that it stands for.

Nothing is kept between requests: a conversation travels whole in `input`. Fields that this page does not name are
handed to chat completions, which honours, ignores or refuses them (`seed`, `stop`, `top_k`, `forced_answer`, ...).
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from fourfold.serving.api.body import Body, OneComplaint, Text
from fourfold.serving.api.chat_schema import ChatRequest, RefusalPart
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.translation import chat_request, in_words_of


class InputText(Body):
    type: Literal["input_text"]
    text: Text


class OutputText(Body):
    type: Literal["output_text"]
    text: Text


class InputImage(Body):
    type: Literal["input_image"]
    image_url: Text = Field(description="data:image/...;base64,... or an allowed https URL")
    detail: str | None = Field(None, description="ignored: every image is read at the model's own size")


Part = Annotated[InputText | OutputText | InputImage | RefusalPart, Field(discriminator="type")]
Parts = Annotated[list[Part], OneComplaint]


class InputMessage(Body):
    """A message; also one that this server answered with, sent back as it came."""

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | Parts


class FunctionCall(Body):
    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: Text


class FunctionCallOutput(Body):
    type: Literal["function_call_output"]
    call_id: Text
    output: Text | Parts


def _kind(item: Any) -> Any:
    return (item.get("type") if isinstance(item, dict) else getattr(item, "type", None)) or "message"


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="input_item",
        custom_error_message="must be a message, a function_call or a function_call_output",
    ),
]


class TextFormat(Body):
    model_config = ConfigDict(extra="allow")
    type: str


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: str | None = Field(None, description="ignored")


class FunctionTool(Body):
    model_config = ConfigDict(extra="allow")
    type: str = Field(description="only function is served")


class ResponsesRequest(Body):
    model_config = ConfigDict(extra="allow")  # what is not here is for chat completions

    input: Text | Annotated[list[InputItem], Field(min_length=1, max_length=2000, fail_fast=True)]
    model: Text | None = Field(None, description="a name of /v1/models; the base model where it is left out")
    instructions: Text | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = None
    include: list[str] | None = Field(
        None, max_length=16, description="message.output_text.logprobs; others add nothing"
    )
    top_logprobs: int | None = Field(None, ge=0, le=20)
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128, fail_fast=True)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = Field(None, description="only disabled is served")
    background: bool | None = Field(None, description="only false is served")
    previous_response_id: Text | None = Field(None, description="not served: send the whole conversation as input")
    conversation: str | dict[str, Any] | None = Field(None, description="not served, as previous_response_id")
    prompt: dict[str, Any] | None = Field(None, description="not served: nothing is stored")
    stream_options: dict[str, Any] | None = Field(None, description="ignored")

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())


_NOT_KEPT = "nothing is kept between requests; send the whole conversation as input"
_UNSERVED = {
    "previous_response_id": _NOT_KEPT,
    "conversation": _NOT_KEPT,
    "prompt": "prompts are not stored here; send the text as input",
    "background": "an answer is not made after its request has ended; leave it out, or stream",
    "context_management": "nothing is taken out of a conversation; send what the model is to read",
}
_CHAT_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "include or top_logprobs",
    "functions": "tools",
}
"""Fields of chat completions, and what to use here."""


def as_chat(body: ResponsesRequest) -> tuple[ChatRequest, dict[str, str]]:
    """The chat request, and its places by their names in `body`, see `in_words_of`.

    Raises:
        ApiError: a field asks for something this server does not do.
    """
    _check(body)
    messages, places = _messages(body)
    fields = {
        **(body.model_extra or {}),
        "messages": messages,
        "model": body.model,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "stream": body.stream,
        "logprobs": body.wants_logprobs,
        "top_logprobs": body.top_logprobs if body.wants_logprobs else None,
        "parallel_tool_calls": body.parallel_tool_calls,
    }
    places |= {"max_completion_tokens": "max_output_tokens", "messages": "input"}
    places |= {"response_format": "text.format", "response_format.json_schema": "text.format"}
    if body.text is not None and body.text.format is not None:
        fields["response_format"] = _response_format(body.text.format)
    if body.tools:
        fields["tools"] = [_tool(tool, number) for number, tool in enumerate(body.tools)]
        places |= {f"tools.{number}.function": f"tools.{number}" for number in range(len(body.tools))}
    if body.tool_choice is not None:
        fields["tool_choice"] = _tool_choice(body.tool_choice)
    with in_words_of(places):
        return chat_request(fields), places


def _check(body: ResponsesRequest) -> None:
    extra = body.model_extra or {}
    for field, why in _UNSERVED.items():
        if getattr(body, field, None) or extra.get(field):
            raise ApiError(400, f"{field} is not supported: {why}", param=field, code="unsupported_parameter")
    for field, here in _CHAT_NAMES.items():
        if extra.get(field) is not None:
            message = f"{field} is a field of chat completions; here it is {here}"
            raise ApiError(400, message, param=field, code="unsupported_parameter")
    if extra.get("n") not in (None, 1):
        raise ApiError(400, "n is not supported: a response is one answer", param="n", code="unsupported_parameter")
    if body.truncation == "auto":
        message = "truncation is not supported: nothing is left out of a conversation; shorten it or send disabled"
        raise ApiError(400, message, param="truncation", code="unsupported_parameter")


def _messages(body: ResponsesRequest) -> tuple[list[dict[str, Any]], dict[str, str]]:
    messages: list[dict[str, Any]] = []
    places: dict[str, str] = {}

    def add(message: dict[str, Any], place: str) -> None:
        places[f"messages.{len(messages)}"] = place
        messages.append(message)

    if body.instructions:
        add({"role": "system", "content": body.instructions}, "instructions")
    if isinstance(body.input, str):
        add({"role": "user", "content": body.input}, "input")
        return messages, places
    for number, item in enumerate(body.input):
        place = f"input.{number}"
        if isinstance(item, InputMessage):
            add({"role": item.role, "content": _content(item.content)}, place)
        elif isinstance(item, FunctionCallOutput):
            add({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}, place)
        else:
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            # The calls of one turn are items of their own here, and stand in one message there.
            if messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                add({"role": "assistant", "content": None, "tool_calls": [call]}, place)
    return messages, places


def _content(content: str | Parts) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: InputText | OutputText | InputImage | RefusalPart) -> dict[str, Any]:
    if isinstance(part, InputImage):
        return {"type": "image_url", "image_url": {"url": part.image_url}}
    if isinstance(part, RefusalPart):
        return {"type": "refusal", "refusal": part.refusal}
    return {"type": "text", "text": part.text}


def _response_format(format: TextFormat) -> dict[str, Any]:
    rest = format.model_extra or {}
    if format.type == "json_schema" and rest.get("schema") is None:  # chat completions take its lack for any object
        raise ApiError(400, "text.format.schema is missing", param="text.format.schema", code="invalid_value")
    return {"type": format.type, "json_schema": rest} if format.type == "json_schema" else {"type": format.type}


def _tool(tool: FunctionTool, number: int) -> dict[str, Any]:
    if tool.type != "function":
        message = f"tools.{number}: this server runs no tools of its own; only functions can be called"
        raise ApiError(400, message, param=f"tools.{number}.type", code="unsupported_parameter")
    return {"type": "function", "function": tool.model_extra or {}}


def _tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, str):
        return choice
    if choice.get("type") != "function":
        message = 'tool_choice must be "none", "auto", "required" or {"type": "function", "name": "..."}'
        raise ApiError(400, message, param="tool_choice", code="unsupported_parameter")
    return {"type": "function", "function": {"name": choice.get("name")}}
