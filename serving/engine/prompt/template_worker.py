"""The other process of `isolated_template`: a line of JSON in, a line of JSON out, until nobody asks any more."""

import contextlib
import json
import os
import signal
import sys
from functools import lru_cache
from typing import Any

from fourfold.serving.engine.prompt.chat_template import ChatTemplate

_LONGEST = 2**25
"""Characters of a conversation's text; a thousand times what a context holds."""


def main() -> None:
    """Serve; the only argument is how many bytes of address space the process may have."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _cap(int(sys.argv[1]))
    compiled = lru_cache(maxsize=8)(lambda source, tokens: ChatTemplate(source, json.loads(tokens)))
    for line in sys.stdin.buffer:
        wish = json.loads(line)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, wish["seconds"])  # whose signal ends the process
        try:
            told = _answer(compiled(wish["source"], json.dumps(wish["special_tokens"])), wish.get("asked"))
        except Exception as error:  # templates are programs, and fail as such
            told = {"error": " ".join(f"{error}".split())[:300] or type(error).__name__}
        written = json.dumps(told).encode() + b"\n"
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(written)
        out.flush()


def _answer(template: ChatTemplate, asked: dict[str, Any] | None) -> dict[str, Any]:
    if asked is None:
        return {"declares_tools": template.declares_tools}
    text, spans = template.render(asked.pop("messages"), **asked)
    if len(text) > _LONGEST:
        raise ValueError(f"it makes more than {_LONGEST:,} characters of the conversation")
    return {"text": text, "spans": spans}


def _cap(memory: int) -> None:
    with contextlib.suppress(ImportError):  # Windows has none
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        if sys.platform == "linux":  # others take it and do nothing, or too much
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
