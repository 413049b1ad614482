"""Functions and their calls in words, for models whose chat template has no form of its own for them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Messages = list[dict[str, Any]]


def written_call(name: str, arguments: Any) -> str:
    """A call as a model is asked to write it."""
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def spell_out_tools(messages: Messages, tools: Sequence[Mapping[str, Any]]) -> Messages:
    """The conversation with functions, calls and results as ordinary text.

    Args:
        messages: as chat templates take them; assistant messages may have `tool_calls`, and the role `tool` is allowed.
        tools: `{"type": "function", "function": {name, description, parameters}}`; where there are any, the first
            message says so.
    """
    spelled: Messages = []
    names: dict[str, str] = {}
    for message in messages:
        if calls := message.get("tool_calls"):
            names |= {call["id"]: call["function"]["name"] for call in calls}
            written = [written_call(call["function"]["name"], call["function"]["arguments"]) for call in calls]
            spelled.append({"role": "assistant", "content": _joined(message["content"], "\n".join(written))})
        elif message["role"] == "tool":
            name = message.get("name") or names.get(message["tool_call_id"], "the function")
            spelled.append({"role": "user", "content": _joined(f"{name} returned:", message["content"])})
        else:
            spelled.append(message)
    if not tools:
        return spelled
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    told = (
        "You can call these functions:\n"
        f"{listed}\n"
        'Answer with one call, {"name": the function, "arguments": {its arguments}}, and nothing else.'
    )
    if spelled[0]["role"] == "system":
        return [{"role": "system", "content": _joined(spelled[0]["content"], told)}, *spelled[1:]]
    return [{"role": "system", "content": told}, *spelled]


def _joined(*contents: Any) -> Any:
    """Contents of messages one below the other."""
    if all(isinstance(content, str) for content in contents):
        return "\n".join(content for content in contents if content)
    parts: list[dict[str, Any]] = []
    for content in contents:
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts
