"""Tokenizer and chat templates against transformers' own."""

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

import fourfold.assistant.model  # noqa: F401 - registers the processor
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.prompts.chat import NAMES, load_template
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.prompt.chat_template import ChatTemplate
from fourfold.serving.engine.prompt.processor import read_processor
from fourfold.serving.engine.prompt.tokenizer import PlainTokenizer
from tests.tiny import TOOL_TEMPLATE

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
IMAGE = {"type": "image"}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": [IMAGE, {"type": "text", "text": "what is <|im_end|> this? <ImageHere>"}]}],
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "one"}, {"type": "text", "text": "two 犬"}]},
        {"role": "assistant", "content": "a dog\n  on a mat  "},
        {"role": "user", "content": "[vqa] and its colour?"},
        {"role": "assistant", "content": "it is brown "},
    ],
]
TOOLS = [{"type": "function", "function": {"name": "find", "description": 'it <finds> "é"', "parameters": {}}}]


def both(checkpoint: Path) -> tuple[PlainTokenizer, Any]:
    return PlainTokenizer(checkpoint), AutoProcessor.from_pretrained(checkpoint).tokenizer


def check_tokenizer(mine: PlainTokenizer, theirs: Any, text: str) -> None:
    for special in (True, False):
        expected = theirs(text, add_special_tokens=special, return_offsets_mapping=True)
        found = mine(text, add_special_tokens=special, return_offsets_mapping=True)
        assert found == {name: expected[name] for name in ("input_ids", "offset_mapping")}
    ids = expected["input_ids"]
    assert mine.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    for skip in (True, False):
        found = mine.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert found == theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)


def check_facts(mine: PlainTokenizer, theirs: Any) -> None:
    assert len(mine) == len(theirs)
    assert mine.eos_token_id == theirs.eos_token_id
    assert mine.special_tokens_map == theirs.special_tokens_map
    assert {*theirs.all_special_ids} <= {*mine.all_special_ids}
    added = theirs.added_tokens_decoder
    assert mine.all_special_ids == sorted(number for number, token in added.items() if token.special)
    assert mine.convert_ids_to_tokens(len(mine) + 5) is None


@pytest.fixture(scope="module")
def tiny_pair(tiny_checkpoint: Path) -> tuple[PlainTokenizer, Any]:
    return both(tiny_checkpoint)


def test_the_tokenizer_is_that_of_transformers(tiny_pair: tuple[PlainTokenizer, Any]) -> None:
    check_facts(*tiny_pair)

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(st.sampled_from(["<|im_start|>", "<ImageHere>", " ", "dog", "don't ", "\n"]) | st.text()))
    def check(parts: list[str]) -> None:
        check_tokenizer(*tiny_pair, "".join(parts))

    check()


@pytest.mark.mini
def test_the_default_models_tokenizer_is_that_of_transformers() -> None:
    mine, theirs = both(resolve_model(None))
    check_facts(mine, theirs)
    for text in ("", "Hello, world 123!", "<|im_start|>user\nit's <ImageHere> 犬 é\t  x<|im_end|>", "<repo_name>a"):
        check_tokenizer(mine, theirs, text)


def test_tokenizers_with_other_settings_or_code_are_left_to_transformers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = json.loads((tiny_checkpoint / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer.json").write_bytes((tiny_checkpoint / "tokenizer.json").read_bytes())
    for name, value in {
        "add_bos_token": True,
        "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]},
        "tokenizer_class": "LlamaTokenizer",
        "clean_up_tokenization_spaces": True,
        "mask_token": "<mask>",
    }.items():
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(whole | {name: value}))
        with pytest.raises(ValueError, match="tokenizer"):
            PlainTokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(whole))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        PlainTokenizer(tmp_path)


@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
@pytest.mark.parametrize("name", [*NAMES, "tools"])
def test_templates_are_rendered_as_transformers_does(name: str, number: int) -> None:
    source = TOOL_TEMPLATE if name == "tools" else load_template(name)
    messages, template = CONVERSATIONS[number], ChatTemplate(source, SPECIAL)
    assert template.declares_tools == (name == "tools")
    answered = messages[-1]["role"] == "assistant"
    for options in (
        {"add_generation_prompt": True},
        {"add_generation_prompt": False, "double_bos": False, "unknown": 1},
        {"add_generation_prompt": True, "tools": TOOLS},
        {"add_generation_prompt": False, "continue_final_message": True},
    ):
        if options.get("continue_final_message") and not answered:
            continue
        (text,), spans = render_jinja_template(
            conversations=[messages],
            chat_template=source,
            return_assistant_tokens_mask=True,
            **SPECIAL,
            **options,
        )
        found, answers = template.render(messages, **options)
        assert found == text
        if not options.get("continue_final_message"):
            assert answers == spans[0]
            assert len(answers) == sum(message["role"] == "assistant" for message in messages)


def test_templates_may_refuse_and_are_told_what_cannot_be_gone_on_with() -> None:
    with pytest.raises(jinja2.TemplateError, match="role"):
        ChatTemplate(load_template("chatml"), {}).render([{"role": "robot", "content": "x"}])
    silent = ChatTemplate("{% for m in messages %}{{ m.role }}{% endfor %}", {})
    with pytest.raises(UserError, match="does not show"):
        silent.render([{"role": "assistant", "content": "x"}], continue_final_message=True)
    with pytest.raises(UserError, match="no text"):
        silent.render([{"role": "assistant", "content": [IMAGE]}], continue_final_message=True)


def test_a_template_that_strips_is_gone_on_with_as_transformers_does() -> None:
    source = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    messages = [{"role": "user", "content": " a "}, {"role": "assistant", "content": "b c  "}]
    (expected,), _ = render_jinja_template(
        conversations=[messages], chat_template=source, continue_final_message=True, add_generation_prompt=False
    )
    assert ChatTemplate(source, {}).render(messages, continue_final_message=True)[0] == expected == "[a][b c"


def test_a_processor_of_another_kind_is_left_to_transformers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for file in tiny_checkpoint.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = (tmp_path / "processor_config.json").read_text()
    (tmp_path / "processor_config.json").write_text(whole.replace("MiniGPTv2Processor", "Other"))
    with pytest.raises(ValueError, match="another kind"):
        read_processor(tmp_path)
