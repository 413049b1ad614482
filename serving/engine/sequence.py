"""One answer while it is made: what the asker holds, and what the scheduler keeps about it."""

import collections.abc
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fourfold.serving.engine.prompt.builder import Prompt
from fourfold.serving.engine.requests import Completion, Delta, FinishReason, Sampling, TokenLogprob
from fourfold.serving.engine.sampling.detokenizer import IncrementalDetokenizer, TokenBytes
from fourfold.serving.engine.sampling.draw import Sampler, top_logprobs

_SEAM = 8
"""Tokens of a prompt that say how the first token behind it reads."""


class Sequence:
    """An answer on its way. Iterate it for its pieces, from one thread; `cancel` may come from any.

    Args:
        sampling: how to draw; `max_tokens` fits into the context.
        lora_id: of the adapter, 0 for none.
        end_ids: tokens that end an answer.
        arrived: `time.perf_counter()` when the request came.
        forced_tokens: tokens of the answer, end token included, where it is known already.
        continues: whether the answer goes on with the prompt's last words.
        on_delta: gets every piece in place of the iterator, on the scheduler's thread, or the exception that ended it;
            it must return at once.
    """

    def __init__(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        lora_id: int,
        sampler: Sampler,
        tokenizer: Any,
        end_ids: frozenset[int],
        arrived: float,
        forced_tokens: collections.abc.Sequence[int] = (),
        continues: bool = False,
        on_delta: Callable[[Delta | Exception], object] | None = None,
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.lora_id = lora_id
        self.sampler = sampler
        self.cancelled = False
        self.token_ids: list[int] = []
        self.cached_tokens = 0
        self.timings = {"preprocess": 0.0, "queue": 0.0, "vision": 0.0, "prefill": 0.0, "decode": 0.0}
        self._forced_tokens = deque(forced_tokens)
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        before = prompt.ids[-_SEAM:] if continues else ()
        self._stream = IncrementalDetokenizer(tokenizer, sampling.stop, before)
        self._continues = continues
        self._token_bytes = TokenBytes(tokenizer) if sampling.logprobs is not None else None
        self._logprobs: list[TokenLogprob] = []
        self._arrived = arrived
        self._first_token: float | None = None
        self.queued = time.perf_counter()
        self.timings["preprocess"] = self.queued - arrived
        self._pieces: queue.SimpleQueue[Delta | Exception] = queue.SimpleQueue()
        self._on_delta = on_delta or self._pieces.put

    def __iter__(self) -> Iterator[Delta]:
        while True:
            piece = self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.completion is not None:
                return

    def result(self) -> Completion:
        for piece in self:
            if piece.completion is not None:
                return piece.completion
        raise RuntimeError("the pieces of this answer were already taken")

    def cancel(self) -> None:
        """Ask for the end; what is there already comes as a completion with the reason "cancelled"."""
        self.cancelled = True

    # What follows is for the scheduler's thread.

    @property
    def is_known(self) -> bool:
        """Whether all that is left of it is known, and no step of the model is needed to say it."""
        return bool(self._forced_tokens) and self.sampling.logprobs is None and not self.sampling.ignore_eos

    def take(self, token_id: int, logits: np.ndarray) -> bool:
        """Add a drawn token, with the logits (vocabulary,) it was drawn from; True when the answer is at its end.

        Of an answer that is known already its next token takes the place of the drawn one.
        """
        if self._forced_tokens:
            token_id = self._forced_tokens.popleft()
        if self._first_token is None:
            self._first_token = time.perf_counter() - self._arrived
        self.token_ids.append(token_id)
        logprobs = (self._logprob(token_id, logits),) if self.sampling.logprobs is not None else ()
        self._logprobs.extend(logprobs)
        # A token that ends the answer because the client said so is not part of its text, as a stop string is not.
        ends = token_id in self.sampling.stop_token_ids
        may_stop = len(self.token_ids) > self.sampling.min_tokens
        text = "" if ends else self._stream.push(token_id, may_stop=may_stop)
        reason: FinishReason | None = None
        if ends or token_id in self._end_ids or self._stream.stopped:
            reason = "stop"
        elif len(self.token_ids) >= self.sampling.max_tokens:
            reason = "length"
        if reason is None:
            self._deliver(Delta(text, (token_id,), logprobs))
            return False
        self.finish(reason, text, (token_id,), logprobs)
        return True

    def finish(
        self,
        reason: FinishReason,
        text: str = "",
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        text += self._stream.finish()
        if self._stream.stopped:
            reason = "stop"
        now = time.perf_counter() - self._arrived
        completion = Completion(
            text=self._stream.text,
            token_ids=self.token_ids,
            finish_reason=reason,
            prompt_tokens=len(self.prompt.ids),
            cached_tokens=self.cached_tokens,
            completion_tokens=len(self.token_ids),
            logprobs=self._logprobs if self.sampling.logprobs is not None else None,
            timings={**self.timings, "first_token": self._first_token or now, "total": now},
            stop_reason=self._stream.stop_reason,
        )
        self._deliver(Delta(text, token_ids, logprobs, reason, completion))

    def fail(self, error: Exception) -> None:
        self._deliver(error)

    def _deliver(self, piece: Delta | Exception) -> None:
        try:
            self._on_delta(piece)
        except Exception:
            # Whoever listened is gone (a closed event loop, say): nobody else's answer may suffer for it.
            self.cancelled = True

    def _logprob(self, token_id: int, logits: np.ndarray) -> TokenLogprob:
        own, top = top_logprobs(logits, token_id, self.sampling.logprobs or 0)
        listed = tuple(self._token(token, value) for token, value in top)
        return self._token(token_id, own, listed)

    def _token(self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        assert self._token_bytes is not None
        first = len(self.token_ids) == 1 and not self._continues
        data = self._token_bytes(token_id, first=first)
        return TokenLogprob(token_id, self._tokenizer.decode([token_id]), data, logprob, top)
