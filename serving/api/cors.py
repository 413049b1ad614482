"""Web pages of other origins that may ask from a browser (CORS): a list, empty unless the operator fills it."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from fourfold.prompts.errors import UserError


def read_origins(values: Iterable[str], *, anybody_may_ask: bool) -> list[str]:
    """Origins as a browser sends them, from the command line: one a value, or a JSON list of them as vLLM takes it.

    Args:
        anybody_may_ask: the server has no keys.

    Raises:
        UserError: one is no origin, or it is "*" where nothing else keeps strangers out.
    """
    origins: list[str] = []
    for value in values:
        try:
            listed = json.loads(value) if value.startswith("[") else [value]
        except ValueError:
            listed = [None]
        for text in (entry.lower() if isinstance(entry, str) else entry for entry in listed):
            if text == "*" and anybody_may_ask:
                raise UserError(
                    "--allowed-origins '*' without keys lets every web page that its visitors open use this server; "
                    "name the pages' origins, or give keys (--api-key-file FILE)"
                )
            if text != "*" and not (isinstance(text, str) and _is_origin(text)):
                raise UserError(
                    f"--allowed-origins: {value} is not an origin; write it as the browser does, "
                    "https://chat.example or http://localhost:3000, without a path"
                )
            origins.append(text)
    return origins


def cors_options(origins: Sequence[str]) -> dict[str, Any]:
    """Arguments of starlette's `CORSMiddleware`."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST", "PATCH", "DELETE"],
        "allow_headers": ["*"],
        # A page on the internet may ask the server on its visitor's own machine, where the operator lists the page.
        "allow_private_network": True,
        "expose_headers": [
            *("x-request-id", "request-id", "retry-after"),
            *("x-fourfold-remembered", "x-fourfold-probabilities", "x-fourfold-sources"),
        ],
    }


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    plain = f"{parts.scheme}://{parts.netloc}" == text and "@" not in parts.netloc and text.isascii()
    return plain and bool(parts.hostname) and parts.scheme.isalpha() and not any(c.isspace() for c in text)
