"""Chat templates that came with a checkpoint: programs of strangers, run in a process with caps on memory and time.

jinja's sandbox keeps them from everything but their variables. It does not keep them from loops within loops, or from
doubling a text forty times; both need no more than a line. Fourfold's own templates are rendered where they are needed.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

import fourfold
from fourfold.prompts.chat import NAMES, load_template
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.prompt.chat_template import ChatTemplate, Span

MEMORY = 2**30
"""Bytes of address space of that process, where the system can cap that (on Linux)."""
SECONDS = 5.0
"""Of computing, for one conversation."""
_WAITED = 15.0
"""Seconds for an answer, where the machine is busy or the process has to be started first."""
LONGEST = 2**20
"""Characters of a template. The longest in use have about fifteen thousand."""

_CODE = "from fourfold.serving.engine.prompt.template_worker import main; main()"


class IsolatedTemplate:
    """As `ChatTemplate`, of somebody else. Thread-safe.

    Raises:
        jinja2.TemplateError: it is malformed or too long, or compiling it takes too much.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > LONGEST:
            raise jinja2.TemplateError(f"the chat template is longer than {LONGEST:,} characters")
        self._wish = {"source": source, "special_tokens": dict(special_tokens)}
        try:
            self.declares_tools: bool = _process.ask(self._wish)["declares_tools"]
        except UserError as error:
            raise jinja2.TemplateError(str(error)) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> tuple[str, list[Span]]:
        """See `ChatTemplate.render`.

        Raises:
            UserError: the template refuses the conversation or fails at it, or takes too much time or memory.
        """
        asked = {
            "messages": [_plain(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            **variables,
        }
        told = _process.ask({**self._wish, "asked": asked})
        return told["text"], [(first, end) for first, end in told["spans"]]


def chat_template(source: str, special_tokens: Mapping[str, str]) -> ChatTemplate | IsolatedTemplate:
    """The template of a checkpoint, ready to render.

    Raises:
        jinja2.TemplateError: it is malformed.
    """
    kind = ChatTemplate if source in _own() else IsolatedTemplate
    return kind(source, special_tokens)


@cache
def _own() -> frozenset[str]:
    return frozenset(load_template(name) for name in NAMES)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose images are only named: templates look at parts' types and keys."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    return {**message, "content": [{**part, "image": None} if "image" in part else part for part in content]}


class _Process:
    """The process, started when it is first needed; one that died is followed by another. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Raises UserError: what is wrong with the template or with the conversation."""
        line = json.dumps({**wish, "seconds": SECONDS}).encode() + b"\n"
        with self._lock:
            try:
                told = json.loads(self._exchange(line))
            except (OSError, EOFError, ValueError):
                self.close()
                raise UserError("the chat template takes too much time or memory; use a simpler one") from None
            except BaseException:  # an interrupt: what is still to come would be taken for the next one's answer
                self.close()
                raise
        if "error" in told:
            raise UserError(f"the chat template fails: {told['error']}")
        return dict(told)

    def _exchange(self, line: bytes) -> bytes:
        if self._running is None or self._running.poll() is not None:
            self.close()
            self._running = self._start()
        assert self._running.stdin is not None and self._running.stdout is not None
        self._running.stdin.write(line)
        pipe, deadline = self._running.stdout.fileno(), time.monotonic() + _WAITED
        blocks: list[bytes] = []
        while not blocks or not blocks[-1].endswith(b"\n"):
            block = os.read(pipe, 2**20) if _ready(pipe, deadline) else b""
            if not block:
                raise EOFError
            blocks.append(block)
        return b"".join(blocks)

    def _start(self) -> "subprocess.Popen[bytes]":
        path = [str(Path(fourfold.__file__).resolve().parents[1]), *(entry for entry in sys.path if entry)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {path!r}; {_CODE}", str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what fails there may be of the conversation
            bufsize=0,
            env={name: os.environ[name] for name in ("SYSTEMROOT", "TZ") if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the server, which lets answers finish
        )

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
            for pipe in (self._running.stdin, self._running.stdout):
                assert pipe is not None
                pipe.close()
            self._running = None


def _ready(pipe: int, deadline: float) -> bool:
    """Whether there is something to read before that moment of `time.monotonic()`."""
    if sys.platform == "win32":  # pipes cannot be waited for there
        return True
    waiting = select.poll()  # `select.select` takes no descriptor above 1023, and a server may have those
    waiting.register(pipe, select.POLLIN)
    return bool(waiting.poll(1000 * max(0.0, deadline - time.monotonic())))


_process = _Process()


def _start_anew() -> None:
    """In a fork of this process: the pipes are the parent's."""
    global _process
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
