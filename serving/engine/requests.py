"""What is asked of the engine and what comes back: plain records, importable without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fourfold.prompts.errors import UserError

FinishReason = Literal["stop", "length", "cancelled"]


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


@dataclass(frozen=True)
class Request:
    """One answer wanted.

    Attributes:
        messages: dicts of `role` and `content`; content is text or a list of parts `{"type": "text", "text": str}` and
            `{"type": "image", "image": PIL.Image}`.
        sampling: how to draw it.
        adapter: name of a loaded adapter, "" for the model without one, None for the engine's default.
        template: variables for the chat template; those that it does not know change nothing.
        forced_answer: what is to be said, where that is known already, such as a remembered correction; the model reads
            it as its own answer, token by token, and `sampling` bounds its length alone.
    """

    messages: list[dict[str, Any]]
    sampling: Sampling = field(default_factory=Sampling)
    adapter: str | None = None
    template: Mapping[str, bool] = field(default_factory=dict)
    forced_answer: str | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log-probability under the model (temperature 1, nothing filtered or penalised).

    Attributes:
        token_id: the token.
        text: what it reads alone; bytes that are no whole character show as U+FFFD.
        logprob: natural logarithm of its probability.
        top: the likeliest alternatives, likeliest first, without lists of their own.
    """

    token_id: int
    text: str
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


class QueueFull(Exception):
    """More requests wait than the engine accepts; try again later."""


class EngineClosed(Exception):
    """The engine was closed before the answer was ready."""
