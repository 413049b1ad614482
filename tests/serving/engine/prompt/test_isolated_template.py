"""Chat templates of strangers: the same text as in this process, and nothing worse than a refusal."""

import concurrent.futures
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jinja2
import psutil
import pytest

from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.prompt import isolated_template
from fourfold.serving.engine.prompt.builder import PromptBuilder
from fourfold.serving.engine.prompt.chat_template import ChatTemplate
from fourfold.serving.engine.prompt.isolated_template import IsolatedTemplate, chat_template
from fourfold.serving.engine.prompt.processor import read_processor
from tests.serving.engine.conversations import picture, wait_for
from tests.tiny import TOOL_TEMPLATE, save_tiny_checkpoint, save_tool_checkpoint

TALK = [
    {"role": "system", "content": "Be brief. 😀 \ud800"},
    {"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "what?\n\0"}]},
    {"role": "assistant", "content": "a dog"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SCHEMA = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture(autouse=True)
def _bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_template, "SECONDS", 0.5)


@pytest.mark.parametrize("source", [TOOL_TEMPLATE, load_template("chatml"), load_template("minigpt_v2")])
def test_it_says_what_the_template_says_here(source: str) -> None:
    apart, here = IsolatedTemplate(source, TOKENS), ChatTemplate(source, TOKENS)
    assert apart.declares_tools == here.declares_tools
    for wish in (
        {},
        {"add_generation_prompt": True},
        {"tools": SCHEMA},
        {"continue_final_message": True},
        {"double_bos": True},
    ):
        assert apart.render(TALK, **wish) == here.render(TALK, **wish)


def test_our_own_are_rendered_here() -> None:
    assert isinstance(chat_template(load_template("chatml"), {}), ChatTemplate)
    assert isinstance(chat_template(load_template("chatml") + " ", {}), IsolatedTemplate)


@pytest.mark.parametrize(
    "body",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
        "{% set n = namespace(s='aaaaaaaa') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
        "{{ 'a'.ljust(10**8) }}",
        "{% for a in range(999999999) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('not like\nthis') }}",
        "{% include '/etc/passwd' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ nothing.at.all }}",
    ],
)
def test_what_it_does_wrong_is_a_sentence(body: str) -> None:
    began = time.monotonic()
    # Behind a variable, so that it is not computed when the template is compiled.
    sentence = r"^the chat template (fails: .+|takes too much)"
    with pytest.raises((UserError, jinja2.TemplateError), match=sentence) as raised:
        IsolatedTemplate("{% if messages %}" + body + "{% endif %}", TOKENS).render(TALK)
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 30
    # And the next conversation is answered.
    assert IsolatedTemplate("{{ bos_token }}", TOKENS).render(TALK)[0] == "<s>"


def test_a_conversation_and_its_like_at_once() -> None:
    template = IsolatedTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    texts = [str(number) * 1000 for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: template.render([{"role": "user", "content": text}])[0], texts))
    assert found == texts


def workers(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if any("template_worker" in word for word in child.cmdline())]


def test_a_process_that_was_killed_is_followed_by_another() -> None:
    template = IsolatedTemplate("{{ messages[0].content }}", {})
    assert template.render([{"role": "user", "content": "one"}])[0] == "one"
    [worker] = workers(psutil.Process())
    worker.kill()
    psutil.wait_procs([worker], timeout=10)
    assert template.render([{"role": "user", "content": "two"}])[0] == "two"


def test_an_interrupt_leaves_no_answer_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(pipe: int, length: int) -> bytes:
        raise KeyboardInterrupt

    template = IsolatedTemplate("{{ messages[0].content }}", {})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(isolated_template.os, "read", interrupt)
        template.render([{"role": "user", "content": "one"}])
    assert template.render([{"role": "user", "content": "two"}])[0] == "two"


def test_it_ends_with_the_process_that_asks() -> None:
    code = (
        "from fourfold.serving.engine.prompt import isolated_template\n"
        "isolated_template.IsolatedTemplate('x', {})\n"
        "input()"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    wait_for(lambda: workers(psutil.Process(asking.pid)))
    [worker] = workers(psutil.Process(asking.pid))
    asking.kill()
    asking.communicate()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def test_a_checkpoint_with_a_hostile_template(tmp_path: Path) -> None:
    directory = save_tiny_checkpoint(tmp_path / "checkpoint")
    place = directory / "chat_template.jinja"
    place.write_text("{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}")
    builder = PromptBuilder(read_processor(directory), 512, frozenset([2]))
    with pytest.raises(UserError, match="takes too much time or memory"):
        builder.tokens([{"role": "user", "content": "hello"}])
    place.write_text("{{ 'a' * 10 ** 10 }}")  # computed when it is compiled
    with pytest.raises((jinja2.TemplateError, UserError)):
        PromptBuilder(read_processor(directory), 512, frozenset([2])).tokens([{"role": "user", "content": "hello"}])
    place.write_text("x" * (2**20 + 1))
    with pytest.raises(jinja2.TemplateError, match="longer than"):
        read_processor(directory)


def test_a_template_that_refuses_the_conversation(tmp_path: Path) -> None:
    directory = save_tiny_checkpoint(tmp_path / "checkpoint")
    (directory / "chat_template.jinja").write_text(load_template("minigpt_v2"))
    builder = PromptBuilder(read_processor(directory), 512, frozenset([2]))
    with pytest.raises(UserError, match="the chat template refuses the conversation: "):
        builder.tokens([{"role": "system", "content": "x"}])


def test_half_a_character_anywhere_in_a_message(tmp_path: Path) -> None:
    """In a tool's arguments nobody has looked at it before."""
    directory = save_tool_checkpoint(tmp_path / "checkpoint")
    builder = PromptBuilder(read_processor(directory), 512, frozenset([2]))

    def talk(value: str) -> list[dict[str, Any]]:
        call = {"id": "1", "function": {"name": "look", "arguments": {"n": value}}}
        return [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]

    assert builder.tokens(talk("\ud800")) == builder.tokens(talk("\N{REPLACEMENT CHARACTER}"))
