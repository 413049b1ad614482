"""The form that an answer is to have: OpenAI's `response_format`, vLLM's `structured_outputs` and `guided_*`."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from fourfold.assistant.grounding.grammar import box_grammar
from fourfold.serving.api.body import Body, Text
from fourfold.serving.api.errors import ApiError
from fourfold.serving.engine.requests import StructuredOutputs

Schema = dict[str, Any]
Choices = Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1)]


class JsonSchema(Body):
    name: str | None = None
    description: str | None = None
    schema_: Schema | None = Field(None, alias="schema", description="a JSON schema; any object where it is left out")
    strict: bool | None = Field(None, description="answers keep to the schema either way")


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputsBody(Body):
    """vLLM's field of that name; one of the first six. `box` is our own: text in which boxes are always well formed."""

    json_: Schema | Text | None = Field(None, alias="json", description="a JSON schema")
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = Field(None, description="in Lark's notation or GBNF")
    json_object: bool | None = None
    box: bool | None = Field(None, description="MiniGPT-v2's boxes, never cut, out of range or reversed")
    structural_tag: Text | None = Field(None, description="not served")
    whitespace_pattern: Text | None = None
    disable_any_whitespace: bool | None = Field(None, description="as it is anyway, without whitespace_pattern")
    disable_additional_properties: bool | None = Field(None, description="also where allOf joins objects")
    disable_fallback: bool | None = Field(None, description="there is one backend")


class FormFields(Body):
    """Fields of a chat request that ask for a form."""

    response_format: ResponseFormat | None = Field(None, description="`text`, `json_object` or `json_schema`")
    structured_outputs: StructuredOutputsBody | None = Field(
        None, description="`json`, `json_object`, `regex`, `choice`, `grammar`, and our own `box`"
    )
    guided_json: Schema | Text | None = Field(None, description="as `structured_outputs.json`")
    guided_regex: Text | None = Field(None, description="as `structured_outputs.regex`")
    guided_choice: Choices | None = Field(None, description="as `structured_outputs.choice`")
    guided_grammar: Text | None = Field(None, description="as `structured_outputs.grammar`")
    guided_whitespace_pattern: Text | None = Field(None, description="as `structured_outputs.whitespace_pattern`")

    def wanted_form(self) -> tuple[str, StructuredOutputs] | None:
        """The field that asks for a form, and the form; None where the answer may have any.

        Raises:
            ApiError: several fields ask for one, or it is incomplete.
        """
        found = [*_of_response_format(self.response_format), *_of_structured_outputs(self.structured_outputs)]
        found += self._guided()
        if len(found) > 1:
            names = " and ".join(name for name, _ in found)
            raise ApiError(400, f"{names} ask for two forms of one answer; keep one", param=found[1][0])
        return found[0] if found else None

    def _guided(self) -> Iterator[tuple[str, StructuredOutputs]]:
        if self.guided_json is not None:
            yield "guided_json", _json(self.guided_json, self.guided_whitespace_pattern)
        if self.guided_regex is not None:
            yield "guided_regex", StructuredOutputs("regex", self.guided_regex)
        if self.guided_choice is not None:
            yield "guided_choice", _choice(self.guided_choice)
        if self.guided_grammar is not None:
            yield "guided_grammar", StructuredOutputs("grammar", self.guided_grammar)


def _of_response_format(wanted: ResponseFormat | None) -> Iterator[tuple[str, StructuredOutputs]]:
    if wanted is None or wanted.type == "text":
        return
    if wanted.type == "json_object":
        yield "response_format", _json({"type": "object"})
    elif wanted.json_schema is None:
        message = "response_format.json_schema is missing; give it a name and a schema"
        raise ApiError(400, message, param="response_format.json_schema", code="invalid_value")
    else:
        schema = wanted.json_schema.schema_
        yield "response_format.json_schema.schema", _json({"type": "object"} if schema is None else schema)


def _of_structured_outputs(wanted: StructuredOutputsBody | None) -> Iterator[tuple[str, StructuredOutputs]]:
    if wanted is None:
        return
    if wanted.structural_tag is not None:
        message = "structured_outputs.structural_tag is not supported; write it as a grammar"
        raise ApiError(400, message, param="structured_outputs.structural_tag", code="unsupported_parameter")
    white_space, close = wanted.whitespace_pattern, bool(wanted.disable_additional_properties)
    if wanted.json_ is not None:
        yield "structured_outputs.json", _json(wanted.json_, white_space, close=close)
    if wanted.json_object:
        yield "structured_outputs.json_object", _json({"type": "object"}, white_space)
    if wanted.regex is not None:
        yield "structured_outputs.regex", StructuredOutputs("regex", wanted.regex)
    if wanted.choice is not None:
        yield "structured_outputs.choice", _choice(wanted.choice)
    if wanted.grammar is not None:
        yield "structured_outputs.grammar", StructuredOutputs("grammar", wanted.grammar)
    if wanted.box:
        yield "structured_outputs.box", StructuredOutputs("grammar", box_grammar())


def _json(schema: Schema | str, white_space: str | None = None, *, close: bool = False) -> StructuredOutputs:
    with contextlib.suppress(ValueError, RecursionError):  # what is wrong with it is said when it is compiled
        schema = closed(json.loads(schema) if isinstance(schema, str) else schema, always=close)
    return StructuredOutputs("json", schema if isinstance(schema, str) else _dumps(schema), white_space)


def _dumps(schema: Schema) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False)
    except RecursionError:
        raise ApiError(400, "the schema is nested too deeply; flatten it", code="invalid_value") from None


def _choice(choices: Sequence[str]) -> StructuredOutputs:
    return StructuredOutputs("choice", json.dumps(list(choices), ensure_ascii=False))


def closed(schema: Any, *, always: bool = False) -> Any:
    """The schema with no other properties than those named, in objects that do not say whether there may be any.

    Small models would go on with properties of their own. Where schemas are joined by `allOf`, and each may name
    properties of the same object, all stay as they are, unless `always`.
    """
    return schema if not always and _joins(schema) else _close(schema)


def _joins(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(_joins, schema))
    if not isinstance(schema, dict):
        return False
    joined = schema.get("allOf")
    beside = "properties" in schema and any(key in schema for key in ("allOf", "anyOf", "oneOf", "$ref"))
    return beside or (isinstance(joined, list) and len(joined) > 1) or any(map(_joins, schema.values()))


def _close(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_close(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    data = ("const", "enum", "default", "examples")
    inner = {key: value if key in data else _close(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "patternProperties" not in schema:
        inner.setdefault("additionalProperties", False)
    return inner
