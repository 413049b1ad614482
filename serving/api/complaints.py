"""What is wrong with a value of a request, in a sentence that says the right form; pydantic's words are for us."""

from collections.abc import Mapping
from typing import Any

_FORMS = {
    "messages": 'a list such as [{"role": "user", "content": "Hello!"}]',
    "input": 'text, or a list such as [{"role": "user", "content": "Hello!"}]',
    "content": "text, or a list of parts with a type each",
    "image_url": '{"url": "data:image/png;base64,..."}, or that URL alone',
    "input_image": 'text such as "data:image/png;base64,..."',
    "source": '{"type": "base64", "media_type": "image/png", "data": "..."}',
    "stop": "text, or a list of up to 16 texts",
    "system": "text, or a list of text blocks",
    "questions": 'a list such as [{"type": "predicate", "name": "dog", "instructions": "is there a dog?"}]',
    "stop_sequences": "a list of up to 16 texts",
    "response_format": '{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {...}}',
    "logit_bias": 'token numbers with a bias each, such as {"42": -5}',
    "tools": 'a list such as [{"type": "function", "function": {"name": "...", "parameters": {...}}}]',
    "tokens": "a list of token numbers, such as [1, 42]",
}
"""Of fields that have more than one form, or one that is easily missed."""
_COMPLAINTS = {
    "missing": "is missing",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} entries, and has {actual_length}",
    "too_long": "must have at most {max_length} entries, and has more",
    "literal_error": "must be {expected}",
    "union_tag_not_found": "must be an object with {discriminator}",
    "union_tag_invalid": "must have as {discriminator} one of: {expected_tags}",
}
"""By pydantic's name of an error; the braces are filled from its context."""


def complaint(error: Mapping[str, Any], field: str) -> str:
    """One line about an error of pydantic at a field; it never shows the value, which may be an image or a prompt."""
    kind, context = error["type"], error.get("ctx", {})
    form = _FORMS.get("input_image" if field == "image_url" and "input_image" in error["loc"] else field)
    if kind == "value_error":  # a validator of ours, which says what to do
        return str(context["error"])
    if form and kind.endswith("_type"):
        return f"must be {form}"
    if kind == "too_short" and context["min_length"] == 1:
        kind = "string_too_short"
    template = _COMPLAINTS.get(kind)
    said = template.format(**{name: _plain(value) for name, value in context.items()}) if template else error["msg"]
    said = "".join(character if character.isprintable() else " " for character in said)[:300]
    return f"{said}; it is {form}" if form else said


def _plain(value: Any) -> Any:
    """Numbers as people write them: 2 for 2.0, and all digits of a limit."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
