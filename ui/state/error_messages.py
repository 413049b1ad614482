"""What went wrong between the page and its endpoint, as a sentence for people."""

from collections.abc import Iterator

import openai

from fourfold.assistant.unicode import well_formed
from fourfold.prompts.errors import UserError


def sentence(error: BaseException, endpoint: str) -> str:
    """What happened and what to do, one or two sentences.

    Args:
        error: what a client raised.
        endpoint: the URL that was asked.
    """
    match error:
        case UserError():
            return _capital(str(error))
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return f"The endpoint {endpoint} refuses this key. Give the right one under Connection."
        case openai.NotFoundError() if _words(error):
            return f"The endpoint does not know what it was asked for: {_words(error)}. Choose another model."
        case openai.NotFoundError():
            return f"The endpoint {endpoint} does not know what it was asked for. Its address usually ends with /v1."
        case openai.RateLimitError():
            return "The endpoint has too much to do at the moment. Try again shortly."
        case openai.APITimeoutError():
            return f"The endpoint {endpoint} took too long to answer. Try again, or ask for a shorter answer."
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return f"The endpoint cannot answer this{_because(error)}."
        case openai.APIStatusError():
            return f"The endpoint failed ({error.status_code}){_because(error)}. Try again."
        case openai.APIConnectionError() if any(type(cause).__name__ != "ConnectError" for cause in _transport(error)):
            return "The connection broke off in the middle of the answer. Try again."
        case openai.APIConnectionError():
            return f"The endpoint {endpoint} does not answer. Is it running?"
        case openai.APIError():  # an error inside a stream
            return f"The answer broke off{_because(error)}. Try again."
        case ValueError() if "No generation chunks" in str(error):
            return f"The endpoint {endpoint} did not answer as OpenAI's do. Its address usually ends with /v1."
        case _:
            return f"Something unexpected went wrong ({type(error).__name__}: {_line(str(error))}). Try again."


def _transport(error: BaseException) -> Iterator[BaseException]:
    """What the HTTP client said that the error was made of; openai's client is httpx or httpx2, by its version."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.startswith("httpx"):
            yield cause
        cause = cause.__cause__


def _because(error: openai.APIError) -> str:
    words = _words(error)
    return f": {words}" if words else ""


def _words(error: openai.APIError) -> str:
    """The endpoint's own words, where it sent OpenAI's error object or one like it; "" where it sent a page."""
    found = _message(error.body)
    if found is None and not isinstance(error, openai.APIStatusError):
        found = error.message
    return "" if found is None or found.lstrip().startswith(("<", "{", "[")) else _line(found)


def _message(body: object, depth: int = 4) -> str | None:
    """The sentence in an error's body, in whatever of the usual places."""
    if isinstance(body, str):
        return body if body.strip() else None
    if isinstance(body, list):
        body = body[0] if body else None
    if isinstance(body, dict) and depth:
        for name in ("message", "msg", "error", "detail", "errors"):
            if found := _message(body.get(name), depth - 1):
                return found
    return None


def _line(text: str, longest: int = 300) -> str:
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in well_formed(text)).split()).rstrip(". ")
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _capital(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."
