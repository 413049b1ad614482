"""Answers that keep to a form, by llguidance: which tokens may come next under a schema, a pattern or a grammar."""

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.assistant.grounding.grammar import box_grammar
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.requests import Request, StructuredOutputs

if TYPE_CHECKING:
    from llguidance import LLMatcher

_LARGEST = 64 * 1024
"""Characters of a grammar; an honest one of the largest kind, a choice among a thousand names, has a third of that."""
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 25_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
"""Of llguidance's work: half a second to compile in the worst case, and some 20 MB; a tenth of a second a token."""
_SEARCH_SECONDS = 0.5  # for the part of a schema that is at fault
_BOX_TAGS = tuple(task.tag for task in (Task.REFER, Task.DETECTION, Task.GROUNDING))
_KEPT = 32  # compiled grammars
_SEPARATORS = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
"""JSON as Python's json.dumps writes it: where any white space may stand, small models write nothing else."""


class GrammarError(UserError):
    """A grammar that cannot be honoured, or that became too much work in the middle of an answer."""


class Grammar:
    """How far one answer has come in its form. Not thread-safe."""

    def __init__(self, matcher: "LLMatcher", vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self) -> np.ndarray:
        """(vocabulary,) bool: the tokens that may come next, an end token where the answer may end.

        Raises:
            GrammarError: finding them out is more work than one answer may cause.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(bool)

    def advance(self, token_id: int) -> None:
        """Go on with a token.

        Raises:
            GrammarError: it is not one of those allowed.
        """
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            why = _readable(self._matcher.get_error())
            raise GrammarError(f"the form that the answer should have could not be followed ({why}); simplify it")


class GrammarCompiler:
    """Grammars of one tokenizer. Thread-safe.

    Args:
        tokenizer: with a `backend_tokenizer` of the package tokenizers.
        vocabulary: width of the logits.
        end_ids: tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, end_ids: Iterable[int]) -> None:
        self._tokenizer, self._vocabulary, self._end_ids = tokenizer, vocabulary, sorted(end_ids)
        self._prepared: Any = None
        self._compiled: OrderedDict[StructuredOutputs, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, wanted: StructuredOutputs) -> Grammar:
        """A grammar at its start; in bounded time and memory whatever is asked for.

        Raises:
            GrammarError: it is malformed, too large, or uses what is not supported; the message names the part.
        """
        with self._lock:
            matcher = self._compiled.get(wanted)
        if matcher is None:
            matcher = self._compile(wanted)
            with self._lock:
                self._compiled[wanted] = matcher
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
        return Grammar(matcher.deep_copy(), self._vocabulary)

    def _compile(self, wanted: StructuredOutputs) -> "LLMatcher":
        if len(wanted.text) > _LARGEST:
            raise GrammarError(f"the {wanted.kind} has {len(wanted.text)} characters; at most {_LARGEST} are read")
        try:
            return self._matcher(wanted)
        except ValueError as error:
            why = str(error)
        if wanted.kind == "json" and (place := self._place(wanted, why)):
            why = f"{why} (at {place})"
        raise GrammarError(f"the {wanted.kind} cannot be honoured: {why}")

    def _matcher(self, wanted: StructuredOutputs) -> "LLMatcher":
        """A matcher at its start.

        Raises:
            ValueError: what is wrong.
        """
        from llguidance import LLMatcher, LLParserLimits

        try:
            source = _source(wanted)
        except (ValueError, RecursionError) as error:
            raise ValueError(_readable(str(error)) or "it is nested too deeply") from None
        matcher = LLMatcher(self._ll_tokenizer(), source, log_level=0, limits=LLParserLimits(**_LIMITS))
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first step is the most work, and shows a form that nothing has
        if matcher.is_error():
            raise ValueError(_readable(matcher.get_error()))
        return matcher

    def _ll_tokenizer(self) -> Any:
        from llguidance import LLTokenizer

        with self._lock:
            if self._prepared is None:
                source = self._tokenizer.backend_tokenizer.to_str()
                self._prepared = LLTokenizer(source, n_vocab=self._vocabulary, eos_token=self._end_ids)
            return self._prepared

    def _place(self, wanted: StructuredOutputs, why: str) -> str:
        """The part of a schema that is at fault: the innermost that alone is refused in the same words."""
        try:
            schema = json.loads(wanted.text)
        except (ValueError, RecursionError):
            return ""
        place, inner, ends = "", list(_parts(schema)), time.monotonic() + _SEARCH_SECONDS
        while inner and time.monotonic() < ends:
            name, part = inner.pop(0)
            alone = {**{key: schema[key] for key in ("$defs", "definitions") if key in schema}, **part}
            try:
                self._matcher(StructuredOutputs("json", json.dumps(alone), wanted.whitespace))
            except ValueError as error:
                if str(error) == why:
                    place, inner = f"{place}.{name}" if place else name, list(_parts(part))
        return place


def form_of(request: Request) -> StructuredOutputs | None:
    """The form of a request's answer: the one it asks for, or text with well-formed boxes where boxes are asked for.

    A question asks for them by its tag, as MiniGPT-v2 was trained: `[refer]`, `[detection]`, `[grounding]`.
    """
    sampling = request.sampling
    if sampling.structured_outputs is not None or sampling.ignore_eos:
        return sampling.structured_outputs
    known = request.forced_answer is not None or request.continue_final_message
    return StructuredOutputs("grammar", box_grammar()) if not known and _asks_for_boxes(request) else None


def _asks_for_boxes(request: Request) -> bool:
    last = request.messages[-1]
    content = last["content"]
    if not isinstance(content, str):
        content = next((part["text"] for part in content or () if part["type"] == "text"), "")
    return last["role"] == "user" and content.lstrip().lower().startswith(_BOX_TAGS)


def _source(wanted: StructuredOutputs) -> str:
    """In llguidance's own notation.

    Raises:
        ValueError: it is malformed.
    """
    from llguidance import LLMatcher, grammar_from

    match wanted.kind:
        case "json":
            options: Any = _SEPARATORS
            if wanted.whitespace is not None:
                options = {"whitespace_pattern": wanted.whitespace, "whitespace_flexible": True}
            return LLMatcher.grammar_from_json_schema(wanted.text, overrides=options)
        case "regex":
            return LLMatcher.grammar_from_regex(wanted.text)
        case "choice":
            choices = json.loads(wanted.text)
            return LLMatcher.grammar_from_regex("|".join(re.escape(choice) for choice in choices))
        case "grammar":
            return grammar_from("grammar", wanted.text)


def _parts(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas inside a schema, each with its place."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, dict):
            inner: Iterable[tuple[str, Any]] = ((f"{key}.{name}", part) for name, part in value.items())
        elif key in ("anyOf", "allOf", "oneOf", "prefixItems") and isinstance(value, list):
            inner = ((f"{key}.{number}", part) for number, part in enumerate(value))
        else:
            inner = [(key, value)] if key in ("items", "additionalProperties", "not") else []
        for name, part in inner:
            if isinstance(part, dict):
                yield name, part


def _readable(error: str) -> str:
    """llguidance's own words, on one line and without what only its developers need."""
    error = error.replace("<non-verbose/>", "")
    if "NoExtension" in error:
        return "no text has this form"
    return " ".join("".join(c if c.isprintable() else " " for c in error).split())[:300]
