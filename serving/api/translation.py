"""Other APIs' requests as chat requests, and errors about the latter in the words of the former."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from fourfold.serving.api.chat_schema import ChatRequest
from fourfold.serving.api.errors import ApiError, as_refusal


def chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """The chat request that has these fields.

    Raises:
        ApiError: chat completions refuse them.
    """
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        errors = [{**found, "loc": ("body", *found["loc"])} for found in error.errors()]
        raise as_refusal(errors, fields) from None


@contextmanager
def in_words_of(places: Mapping[str, str]) -> Iterator[None]:
    """Have errors name fields as the client wrote them.

    Args:
        places: the client's by the chat request's, such as `messages.1` to `input.0`; the longest that begins a place
            counts.

    Raises:
        ApiError: what the block raised, renamed.
    """
    try:
        yield
    except ApiError as error:
        param = error.param or ""
        known = max((place for place in places if f"{param}.".startswith(f"{place}.")), key=len, default=None)
        if known is None:
            raise
        renamed = places[known] + param[len(known) :]
        message = error.message.replace(param, renamed, 1) if error.message.startswith(param) else error.message
        raise ApiError(error.status, message, param=renamed, code=error.code, headers=error.headers) from None
