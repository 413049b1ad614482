"""Chat templates as transformers renders them, by jinja2 alone."""

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fourfold.prompts.errors import UserError

Span = tuple[int, int]
_CUT = "\N{WORD JOINER}the text is cut here\N{WORD JOINER}"
"""Stands behind words with which an answer goes on, and goes with all that the template puts there."""


@dataclass
class _Rendering:
    """How long the text is so far, and where in it answers stand."""

    length: int = 0
    spans: list[Span] = field(default_factory=list)


_CURRENT: ContextVar[_Rendering] = ContextVar("rendering")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` … `{% endgeneration %}` around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own contract)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: jinja2.runtime.Macro) -> str:
        text = caller()
        rendering = _CURRENT.get()
        rendering.spans.append((rendering.length, rendering.length + len(text)))
        return text


class ChatTemplate:
    """A compiled template. Thread-safe.

    Args:
        source: Jinja text.
        special_tokens: variables of the template, such as `bos_token`.

    Raises:
        jinja2.TemplateError: it is malformed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
        self._template = environment.from_string(source)
        self._special_tokens = dict(special_tokens)
        names = environment.lex(source)
        self.declares_tools = any(kind == "name" and word == "tools" for _, kind, word in names)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> tuple[str, list[Span]]:
        """The text of a conversation, and where in it the assistant's answers stand.

        Args:
            messages: as in `Request`.
            tools: JSON schemas of functions.
            add_generation_prompt: end with the beginning of an answer.
            continue_final_message: end with the last words of the last message.
            **variables: for the template.

        Raises:
            jinja2.TemplateError: the template refuses the conversation.
            UserError: it is to go on with words that the template does not show.
        """
        rendering = _Rendering()
        blocks = []
        before = _CURRENT.set(rendering)
        try:
            for block in self._template.generate(
                messages=_to_be_continued(messages) if continue_final_message else messages,
                tools=None if tools is None else list(tools),
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **{**self._special_tokens, **variables},
            ):
                blocks.append(block)
                rendering.length += len(block)
        finally:
            _CURRENT.reset(before)
        text = "".join(blocks)
        if continue_final_message:
            text, found, behind = text.rpartition(_CUT)
            if not found:
                raise UserError("the chat template does not show the last message, so no answer can go on with it")
            if not behind.startswith(" "):  # it strips what it is given, so the answer's last space would have gone too
                text = text.rstrip()
        return text, rendering.spans


def _to_be_continued(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    *before, last = messages
    content = last.get("content")
    if isinstance(content, str):
        return [*before, {**last, "content": f"{content}{_CUT} "}]
    parts = list(content or ())
    for place, part in reversed(list(enumerate(parts))):
        if "text" in part:
            parts[place] = {**part, "text": f"{part['text']}{_CUT} "}
            return [*before, {**last, "content": parts}]
    raise UserError("the last message has no text to go on with")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own escapes what is HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
