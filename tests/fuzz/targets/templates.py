"""Chat templates of checkpoints: programs of strangers that run at every question."""

from pathlib import Path

import jinja2

from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.prompt import isolated_template
from fourfold.serving.engine.prompt.isolated_template import chat_template
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Target
from tests.tiny import TOOL_TEMPLATE

_TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "<p>what</p> {<1>}"}]},
    {"role": "assistant", "content": "a dog", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]},
    {"role": "user", "content": "and now?"},
]
_TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
_PIECES = (
    *(
        "{% for a in range(99999) %}",
        "{% endfor %}",
        "{% if messages %}",
        "{% endif %}",
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
    ),
    *("{% set n = namespace(s='x') %}", "{% set n.s = n.s ~ n.s %}", "{{ n.s }}", "{% macro f(a) %}", "{% endmacro %}"),
    *("{{ f(1) }}", " * 10**9", " ** 9999", "'a' * 10**10", "|join", "|list", "|tojson(indent=9)", "|map('upper')"),
    *("messages", "[0]", ".content", ".__class__", ".__init__.__globals__", "|attr('__class__')", "loop.index", "None"),
    *(
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% block b %}",
        "{% endblock %}",
        "{% call f() %}",
    ),
    *("{% generation %}", "{% endgeneration %}", "{% break %}", "{% continue %}", "recursive", "{{ loop(messages) }}"),
    *("{{ raise_exception('no') }}", "{{ strftime_now('%' * 999) }}", "'%999999d' % 1", '"{:>{w}}".format(1, w=10**9)'),
    *(
        "|center(10**9)",
        "|batch(3)",
        "|wordwrap(0)",
        "|indent(10**8)",
        "|replace('', messages)",
        "|slice(0)",
        "|round(999)",
    ),
    *(
        "self",
        "caller()",
        "cycler(1)",
        "lipsum(n=9999)",
        "dict(a=1)",
        "\0",
        "\n",
        "\ud7ff",
        "{{ 1/0 }}",
        "-",
        "9" * 3000,
    ),
)


def templates(directory: Path) -> Target:
    """Compiled and rendered as the engine does it; each of the ways that it asks."""
    usual, isolated_template.SECONDS = isolated_template.SECONDS, 1.0  # five for each that takes them is too much here

    def render(data: bytes) -> None:
        try:
            template = chat_template(data.decode("utf-8", "replace"), _TOKENS)
            # What our own refuse becomes a UserError one floor up.
            text, spans = template.render(_TALK, tools=_TOOLS, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise UserError(" ".join(str(error).split()) or "malformed") from None
        assert all(0 <= first <= end <= len(text) for first, end in spans)

    seeds = [TOOL_TEMPLATE, load_template("chatml") + "\n", load_template("minigpt_v2") + "\n"]

    def close() -> None:
        isolated_template.SECONDS = usual

    return Target([seed.encode() for seed in seeds], render, _mutate, 8000, close)


def _mutate(mutator: Mutator, data: bytes) -> bytes:
    return mutator.text(data, _PIECES, longest=6000)
