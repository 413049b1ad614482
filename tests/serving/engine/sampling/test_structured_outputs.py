"""Answers in a form, by an engine whose weights are random: without the grammar none of them would have it."""

import json
import re
import time
from typing import Any

import jsonschema
import pytest

from fourfold.assistant.grounding import Box, format_box, parse
from fourfold.assistant.grounding.grammar import box_grammar
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling
from fourfold.serving.engine.requests import StructuredOutputs
from fourfold.serving.engine.sampling.structured_outputs import GrammarCompiler, GrammarError
from tests.serving.engine.conversations import Reference, conversations, picture, user

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["tall", "éléphant", 'a "quoted" one']}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def form(kind: Any, value: Any, **more: Any) -> StructuredOutputs:
    return StructuredOutputs(kind, value if isinstance(value, str) else json.dumps(value), **more)


def answers(engine: Engine, wanted: StructuredOutputs, count: int = 6, **sampling: Any) -> list[Completion]:
    """Drawn at a high temperature, beside a row without a form."""
    ways = {"max_tokens": 200, "temperature": 1.5, **sampling}
    asked = [Request([user("hello")], Sampling(seed=seed, structured_outputs=wanted, **ways)) for seed in range(count)]
    return engine.generate([*asked, Request(conversations()[2], Sampling(max_tokens=5))])[:-1]


def test_json_of_a_schema(engine: Engine) -> None:
    found = answers(engine, form("json", PERSON))
    for completion in found:
        assert completion.finish_reason == "stop"
        value = json.loads(completion.text)
        jsonschema.validate(value, PERSON)
        assert completion.text == json.dumps(value, ensure_ascii=False)
    assert len({completion.text for completion in found}) == len(found)


@pytest.mark.parametrize("pattern", [r"[a-c]{2,5}-[0-9]{3}", r"(yes|no), it is( not)?\.", r"\p{Lu}\w{3}"])
def test_a_regular_expression(engine: Engine, pattern: str) -> None:
    for completion in answers(engine, form("regex", pattern)):
        assert re.fullmatch(pattern.replace(r"\p{Lu}", r"[^\W\d_a-z]"), completion.text), completion.text


def test_a_choice(engine: Engine) -> None:
    choices = ["yes", "no", "it (really) is\na *mess*", "naïve 犬", "yes, but", '"']
    found = {completion.text for completion in answers(engine, form("choice", choices), count=30)}
    assert found <= set(choices) and len(found) > 2


@pytest.mark.parametrize(
    "grammar", ['start: "a" inner\ninner: "b" inner | "c"', 'root ::= "a" inner\ninner ::= "b" inner | "c"']
)
def test_a_grammar_in_either_notation(engine: Engine, grammar: str) -> None:
    for completion in answers(engine, form("grammar", grammar), max_tokens=400, count=3):
        assert re.fullmatch("ab*c" if completion.finish_reason == "stop" else "ab+", completion.text)


def test_white_space_only_where_it_is_asked_for(engine: Engine) -> None:
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 3, "maxItems": 3}
    for completion in answers(engine, form("json", schema, whitespace="[ ]{2}")):
        assert re.fullmatch(r"\[( {2})?\d( {2})?,( {2})?\d( {2})?,( {2})?\d( {2})?\]", completion.text)


def test_greedy_takes_the_likeliest_allowed_token(engine: Engine, reference: Reference) -> None:
    """And log-probabilities are the model's own, of an answer that it would not have given."""
    messages = conversations()[0]
    wanted = form("choice", ["yes", "no", "two"])
    [completion] = engine.generate([Request(messages, Sampling(max_tokens=9, logprobs=2, structured_outputs=wanted))])
    reference.check_logprobs(messages, completion, 1e-3)
    tokenizer = reference.processor.tokenizer
    expected = reference.logprobs(messages, completion.token_ids)
    choices = ("yes", "no", "two")
    for place, token in enumerate(completion.token_ids):
        written = tokenizer.decode(completion.token_ids[:place])
        # Independently of the grammar: whatever goes on with one of the choices.
        texts = {other: tokenizer.decode([other]) for other in range(4, len(tokenizer))}
        possible = [
            other for other, text in texts.items() if any(choice.startswith(written + text) for choice in choices)
        ]
        if written in choices:
            possible = sorted(engine.end_ids)
        assert token == max(possible, key=lambda other: float(expected[place, other]))


def test_alone_and_in_a_batch_of_other_forms(engine: Engine) -> None:
    ways = [form("json", PERSON), form("choice", ["yes", "no"]), None, form("regex", "[0-9]{5}")]
    asked = [
        Request(messages, Sampling(max_tokens=60, temperature=1, seed=5, logprobs=0, structured_outputs=way))
        for messages in conversations()[:2]
        for way in ways
    ]
    together = engine.generate(asked)
    for request, completion in zip(asked, together, strict=True):
        alone = engine.generate([request])[0]
        assert (alone.text, alone.token_ids) == (completion.text, completion.token_ids)


def test_streamed_in_pieces_and_cut_where_there_is_no_more_room(engine: Engine) -> None:
    request = Request([user("hello")], Sampling(max_tokens=12, structured_outputs=form("json", PERSON)))
    pieces = list(engine.stream(request))
    text = "".join(piece.text for piece in pieces)
    assert text == engine.generate([request])[0].text and text.startswith('{"name": "')
    assert pieces[-1].finish_reason == "length"


def test_the_form_comes_before_min_tokens_and_bad_words(engine: Engine) -> None:
    for completion in answers(engine, form("choice", ["yes"]), min_tokens=50, bad_words=("yes", "y", "s")):
        assert completion.text == "yes" and completion.finish_reason == "stop"


def deep(levels: int) -> str:
    return '{"type": "array", "items": ' * levels + "{}" + "}" * levels


def doubling(levels: int) -> dict[str, Any]:
    parts: dict[str, Any] = {"a0": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}
    for level in range(1, levels):
        inner = {"$ref": f"#/$defs/a{level - 1}"}
        parts[f"a{level}"] = {"allOf": [inner, {"anyOf": [inner, {"type": "integer", "minimum": level}]}]}
    return {"$defs": parts, "$ref": f"#/$defs/a{levels - 1}"}


REFUSED = {
    "a keyword that is not supported": (
        form("json", {"properties": {"a": {"items": {"not": {}}}}}),
        "not.*properties.a.items",
    ),
    "an unknown format": (
        form("json", {"anyOf": [{"type": "string"}, {"type": "string", "format": "x"}]}),
        "format.*anyOf.1",
    ),
    "no type": (form("json", {"$defs": {"dog": {"type": "dog"}}, "$ref": "#/$defs/dog"}), r"type: dog.*\$defs.dog"),
    "a branch that overlaps": (form("json", {"oneOf": [{"type": "string"}, {"maxLength": 3}]}), "oneOf"),
    "a reference to nothing": (form("json", {"$ref": "#/$defs/x"}), "x"),
    "a reference to another host": (form("json", {"$ref": "http://example.com/x.json"}), "example.com"),
    "a form that nothing has": (form("json", {"$ref": "#"}), "no text"),
    "numbers between 5 and 3": (form("json", {"minimum": 5, "maximum": 3, "type": "integer"}), "minimum"),
    "not JSON": (form("json", "{"), "json"),
    "a list for a schema": (form("json", [1]), "json"),
    "too deep": (form("json", deep(2000)), "recursion|deep"),
    "doubling at every level": (form("json", doubling(40)), "large"),
    "look-ahead": (form("regex", "(?=a)b"), "look-around"),
    "back reference": (form("regex", r"(a)\1"), "backreference"),
    "an open bracket": (form("regex", "("), "unclosed"),
    "no grammar": (form("grammar", "dog"), "grammar"),
    "an empty grammar": (form("grammar", ""), "grammar"),
    "brackets in brackets": (form("grammar", "start: " + "(" * 9000 + '"a"' + ")" * 9000), "nested"),
    "a megabyte": (form("grammar", "start: " + " | ".join(f'"w{n}"' for n in range(10**5))), "characters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_its_part(engine: Engine, case: str) -> None:
    wanted, words = REFUSED[case]
    began = time.thread_time()
    with pytest.raises(GrammarError, match=words) as refused:
        engine.submit(Request([user("hello")], Sampling(structured_outputs=wanted)))
    assert time.thread_time() - began < 2
    message = str(refused.value)
    assert len(message) < 500 and message.isprintable()


@pytest.mark.parametrize(
    "wanted",
    [
        form("regex", "(a+)+b"),
        form("regex", "(.*a){30}.*"),
        form("regex", "(a{1000}){1000}"),
        form("regex", "(x?){60}x{60}"),
        form("json", {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1500)}}),
        form("json", {"enum": [f"label {n}" for n in range(4000)]}),
        form("grammar", "start: start start | x\nx: /[a-z]*/ | /[a-y]*/ | x x"),
    ],
    ids=lambda wanted: f"{wanted.kind}:{wanted.text[:20]}",
)
def test_what_is_much_work_ends_soon(engine: Engine, wanted: StructuredOutputs) -> None:
    """With an answer or with an error, and its neighbour is answered."""
    began = time.process_time()
    hello = Request([user("hello")], Sampling(max_tokens=5))
    neighbour = engine.submit(hello)
    try:
        engine.submit(
            Request([user("hello")], Sampling(max_tokens=8, temperature=1, structured_outputs=wanted))
        ).result()
    except GrammarError as error:
        assert "simplify" in str(error) or "cannot be honoured" in str(error)
    assert neighbour.result().text == engine.generate([hello])[0].text
    assert time.process_time() - began < 5


def test_compiled_once(engine: Engine) -> None:
    compiler: GrammarCompiler = engine._grammars
    wanted = form("json", {"type": "string", "maxLength": 77})
    first, second = compiler.compile(wanted), compiler.compile(wanted)
    first.advance(int(first.allowed().argmax()))
    assert not bool((first.allowed() == second.allowed()).all())  # each answer has its own
    for number in range(100):
        compiler.compile(form("regex", f"a{number}"))
    assert len(compiler._compiled) <= 32


@pytest.mark.parametrize("tag", ["[refer]", "[detection]", "[grounding]"])
def test_where_boxes_are_asked_for_none_is_malformed(engine: Engine, tag: str) -> None:
    """Of a model that knows no boxes, but is made to open one often; what `max_tokens` has cut is not looked at."""
    brace = engine.tokenize("{", add_special_tokens=False)[0]
    messages = [user(f"{tag} a dog", [picture(3)])]
    ways = {"max_tokens": 120, "temperature": 1.0, "logit_bias": ((brace, 6.0),)}
    boxes = 0
    for completion in engine.generate([Request(messages, Sampling(seed=seed, **ways)) for seed in range(8)]):
        text = completion.text
        found = parse(text[: text.rfind("{")] if text.rfind("{") > text.rfind("}") else text)
        assert not found.malformed, text
        boxes += len(found.boxes)
    assert boxes > 8
    [free] = engine.generate([Request([user("what is it?", [picture(3)])], Sampling(seed=1, **ways))])
    assert parse(free.text).malformed or "{" in free.text  # the same model without a tag


def test_the_numbers_of_a_box_are_in_order() -> None:
    pattern = box_grammar().partition("BOX: ")[2]
    left, right = (re.compile(part.strip("/")) for part in pattern.split(" & "))
    ordered = [(0, 0, 0, 0), (1, 2, 3, 4), (12, 30, 56, 80), (99, 9, 100, 100), (100, 100, 100, 100), (9, 0, 10, 99)]
    for corners in ordered:
        written = format_box(Box(*(corner / 100 for corner in corners)))
        assert left.fullmatch(written) and right.fullmatch(written)
    for corners in [(2, 0, 1, 0), (0, 2, 0, 1), (0, 0, 101, 5), (100, 0, 99, 0), (0, 10, 0, 9)]:
        written = "{" + "".join(f"<{corner}>" for corner in corners) + "}"
        assert not (left.fullmatch(written) and right.fullmatch(written))
