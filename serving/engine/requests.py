"""What is asked of the engine and what comes back: plain records, importable without torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fourfold.prompts.errors import UserError

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class StructuredOutputs:
    """What an answer has to look like, all of it.

    Attributes:
        kind: "json" for a JSON schema (draft 2020-12, without remote references), "regex" (Rust's dialect: no
            look-around, no back references), "choice" for a JSON list of strings, "grammar" in the notation of Lark or
            GBNF.
        text: the schema, pattern, list or grammar.
        whitespace: a regular expression of what may stand between the parts of JSON; None for json.dumps' own.
    """

    kind: Literal["json", "regex", "choice", "grammar"]
    text: str
    whitespace: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        max_tokens: tokens of the answer at most, its end token included; clipped to what the context leaves.
        temperature: 0 for greedy.
        top_p: nucleus, in (0, 1].
        seed: makes a drawn answer repeatable, whoever shares the batch; None draws afresh.
        stop: strings at which the answer ends; they are not part of it.
        logprobs: None for none, else how many alternatives to list beside each token's own (0..20).
        repetition_penalty: above 1 makes tokens of the prompt and the answer less likely (Keskar et al. 2019).
        top_k: only the likeliest so many are drawn from; 0 for all. `top_k`, `top_p` and `min_p` are applied in this
            order, behind the temperature, and each to what the one before has left.
        min_p: only tokens at least this part as likely as the likeliest are drawn from, 0..1.
        presence_penalty: taken off the logits of tokens that the answer has, -2..2.
        frequency_penalty: taken off for each time that it has them, -2..2.
        logit_bias: (token, what is added to its logit, -100..100).
        min_tokens: before so many tokens the answer does not end; stop strings are looked for from there on.
        stop_token_ids: tokens that end the answer as its end token does, and are not part of its text.
        bad_words: texts whose tokens are never completed.
        ignore_eos: whether the answer goes on behind its end token, until another reason ends it.
        structured_outputs: the form of the whole answer; where it leaves no other token, it comes before `min_tokens`
            and `bad_words`.

    Raises:
        UserError: a value is out of its range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    repetition_penalty: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    ignore_eos: bool = False
    structured_outputs: StructuredOutputs | None = None

    def __post_init__(self) -> None:
        # Written as "not inside the range", so that a NaN is refused too.
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; ask for at least 1")
        if not 0 <= self.temperature <= 2:
            raise UserError(f"temperature is {self.temperature}; it goes from 0 (greedy) to 2")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it goes from just above 0 to 1")
        if not 0 < self.repetition_penalty <= 100:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}; it goes from just above 0 to 100")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise UserError(f"logprobs is {self.logprobs}; it goes from 0 to 20")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise UserError("seed does not fit into 64 bits; choose a smaller one")
        if any(not stop for stop in self.stop):
            raise UserError("a stop string is empty; leave it out or give it text")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it is a number of tokens, or 0 for all")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}; it goes from 0 to 1")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise UserError(f"{name} is {getattr(self, name)}; it goes from -2 to 2")
        if any(not -100 <= value <= 100 for _, value in self.logit_bias):
            raise UserError("a value of logit_bias is out of range; they go from -100 to 100")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise UserError(f"min_tokens is {self.min_tokens}; it goes from 0 to max_tokens, {self.max_tokens}")
        if any(not word.strip() for word in self.bad_words):
            raise UserError("one of bad_words is empty; leave it out or give it text")
        if self.structured_outputs is not None and self.ignore_eos:
            raise UserError("ignore_eos goes on behind the end of an answer, where structured_outputs allow nothing")

    def token_ids(self) -> set[int]:
        """The tokens that it names."""
        return {token for token, _ in self.logit_bias} | set(self.stop_token_ids)


@dataclass(frozen=True)
class Request:
    """One answer wanted.

    Attributes:
        messages: dicts of `role` and `content`; content is text or a list of parts `{"type": "text", "text": str}` and
            `{"type": "image", "image": PIL.Image}`.
        sampling: how to draw it.
        adapter: name of a loaded adapter, "" for the model without one, None for the engine's default.
        template: variables for the chat template; those that it does not know change nothing.
        forced_answer: what is to be said, where that is known already, such as a remembered correction; it counts as
            the model's own answer, and `sampling` bounds its length alone.
    """

    messages: list[dict[str, Any]]
    sampling: Sampling = field(default_factory=Sampling)
    adapter: str | None = None
    template: Mapping[str, bool] = field(default_factory=dict)
    forced_answer: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        if self.continue_final_message and self.add_generation_prompt:
            raise UserError("continue_final_message needs add_generation_prompt to be false")
        if self.forced_answer is not None and (self.sampling.structured_outputs or self.continue_final_message):
            raise UserError("forced_answer says all that is answered; leave out what else should form the answer")

    @property
    def rendering(self) -> dict[str, Any]:
        """What the chat template is given beside the messages."""
        variables: dict[str, Any] = dict(self.template)
        if self.tools:
            variables["tools"] = list(self.tools)
        if not self.add_generation_prompt:
            variables |= {"add_generation_prompt": False, "continue_final_message": self.continue_final_message}
        return variables


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log-probability under the model (temperature 1, nothing filtered or penalised).

    Attributes:
        token_id: the token.
        text: what it reads alone; bytes that are no whole character show as U+FFFD.
        bytes: what it adds to the answer; together the tokens' bytes are the answer's.
        logprob: natural logarithm of its probability.
        top: the likeliest alternatives, likeliest first, without lists of their own.
    """

    token_id: int
    text: str
    bytes: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class Completion:
    """A finished answer.

    Attributes:
        text: the answer, cut before a stop string.
        token_ids: every token drawn, the end token included.
        finish_reason: "stop" (end token or stop string), "length" or "cancelled".
        prompt_tokens: tokens read, each image counting its `image_seq_length`.
        cached_tokens: how many of them came from the prefix cache.
        completion_tokens: length of `token_ids`.
        logprobs: one entry per entry of `token_ids`, where asked for.
        stop_reason: the stop string that ended it; None where none did.
        timings: seconds by stage: `preprocess`, `queue`, `vision`, `prefill`, `decode`, `first_token` (since the
            request came), `total`. `vision` and `prefill` are shared by all who were in the same step.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    logprobs: list[TokenLogprob] | None
    timings: Mapping[str, float]
    stop_reason: str | None = None


@dataclass(frozen=True)
class Delta:
    """A piece of an answer as it grows.

    Attributes:
        text: new text; may be empty, since bytes of a character or of a stop string may still be open.
        token_ids: new tokens.
        logprobs: one entry per new token, where asked for.
        finish_reason: None until the last piece.
        completion: the whole answer, with the last piece.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    completion: Completion | None = None


def completed(deltas: Iterable[Delta]) -> Completion:
    """The whole answer, once its last piece has come."""
    *_, last = deltas
    assert last.completion is not None
    return last.completion


class QueueFull(Exception):
    """More requests wait than the engine accepts; try again later."""


class EngineClosed(Exception):
    """The engine was closed before the answer was ready."""
