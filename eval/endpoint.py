"""Asking OpenAI-compatible endpoints: several at once, as fast as they bear, and never the same thing twice."""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fourfold.assistant.refine.memory import REMEMBERED_HEADER
from fourfold.eval.model import Model, NoAnswer, OnOutput, Output
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_START = 4  # requests in flight at first
_ATTEMPTS = 6  # of one sample, before its failure is written down
_PATIENCE = 6  # connection failures in a row after which an endpoint is given up
LENIENCE = 20  # the same for answers that say "too busy" or "failed"
_HOPELESS = 3  # so few samples may fail in turn before the endpoint is suspected instead
FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_TIMEOUT = 120.0  # seconds that an answer may take
_REFUSED = frozenset({400, 413, 422})  # this sample, not the endpoint, is the matter


@dataclass
class Lane:
    """One endpoint with its own speed: a window that grows with successes and halves when it is overrun."""

    url: str
    client: "AsyncOpenAI"
    ceiling: int
    window: float
    running: int = 0
    failures: int = 0
    answered: int = 0
    failing: set[str] = field(default_factory=set)  # samples that failed here since the last answer
    resting_until: float = 0.0
    dead: str | None = None
    knows_memory: bool = True  # takes the field that turns its memory of corrections off, or ignores it

    @property
    def free(self) -> bool:
        """Whether another request may be sent now."""
        return self.dead is None and self.running < int(self.window) and time.monotonic() >= self.resting_until

    def succeeded(self) -> None:
        """Grow by one for every window of successes."""
        self.failures = 0
        self.answered += 1
        self.failing.clear()
        self.window = min(self.window + 1 / self.window, float(self.ceiling))

    def failed(self, reason: str, wait: float, patience: int) -> None:
        """Halve the window and rest; give the endpoint up where nothing else comes from it any more."""
        self.failures += 1
        self.window = max(self.window / 2, 1.0)
        self.resting_until = max(self.resting_until, time.monotonic() + wait)
        if self.failures >= patience:
            self.dead = reason


@dataclass
class _Waiting:
    sample: Sample
    attempts: int = 0
    not_before: float = 0.0
    failed_at: str = ""  # the endpoint that failed on it last; another one is tried first


class _Failed(Exception):
    """What went wrong with one request, and whose fault it is."""

    def __init__(self, message: str, *, retry_after: float | None = None, kind: str) -> None:
        super().__init__(message)
        self.kind = kind  # "overrun", "unreachable", "sample" or "setup"
        self.retry_after = retry_after


class EndpointModel(Model):
    """OpenAI-compatible servers that serve the same model; an adapter is a served name like any other.

    Corrections that a server remembers are no answers of its model: memory is turned off with every request, and an
    answer that is marked as remembered all the same counts as none.

    Args:
        urls: base URLs, with or without /v1.
        name: of the served model; None for the first that the first endpoint lists.
        api_key: for all of them.
        seed: sent along, for servers that need one even for greedy decoding.
        concurrency: requests in flight an endpoint at most.
    """

    ranks_whole_candidates = False

    def __init__(
        self,
        urls: Sequence[str],
        name: str | None = None,
        *,
        api_key: str = "none",
        seed: int = 0,
        concurrency: int = 16,
    ) -> None:
        self.urls, self.api_key, self.seed = tuple(urls), api_key, seed
        self.concurrency, self._name = concurrency, name

    @cached_property
    def identity(self) -> str:
        """The served name; UserError where the first endpoint lists none."""
        return self._name or served_model(self.urls[0], self.api_key)

    def generate(
        self, samples: Sequence[Sample], *, max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        """All at once, within each endpoint's window; candidates are ranked by the first token."""
        self.identity  # noqa: B018  (asked for once, before the event loop runs)
        asyncio.run(self._generate(samples, max_tokens, template, on_output))

    async def _generate(
        self, samples: Sequence[Sample], max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        import openai

        waiting = deque(_Waiting(sample) for sample in samples)
        lanes = []
        for url in self.urls:
            client = openai.AsyncOpenAI(base_url=base_url(url), api_key=self.api_key, max_retries=0, timeout=_TIMEOUT)
            lanes.append(Lane(url, client, self.concurrency, float(min(_START, self.concurrency))))
        running: dict[asyncio.Task[Output], tuple[_Waiting, Lane]] = {}
        try:
            while waiting or running:
                for lane in sorted(lanes, key=lambda lane: lane.running / lane.window):
                    alone = all(other.dead for other in lanes if other is not lane)
                    while lane.free and (one := _next(waiting, "" if alone else lane.url)) is not None:
                        request = self._ask(lane, one.sample, max_tokens, template)
                        running[asyncio.create_task(request)] = (one, lane)
                        lane.running += 1
                if not running and all(lane.dead for lane in lanes):
                    reasons = "; ".join(f"{lane.url}: {lane.dead}" for lane in lanes)
                    raise NoAnswer(f"no endpoint answers any more ({reasons})")
                if not running:
                    await asyncio.sleep(0.05)
                    continue
                finished, _ = await asyncio.wait(running, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    one, lane = running.pop(task)
                    lane.running -= 1
                    output = _settle(task, one, lane)
                    if output is None:
                        waiting.append(one)
                    else:
                        on_output(one.sample, output)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for lane in lanes:
                await lane.client.close()

    async def _ask(self, lane: Lane, sample: Sample, max_tokens: int, template: Mapping[str, bool]) -> Output:
        import openai

        try:
            shown = sample.attachment()
            image = None if shown is None else {"type": "image_url", "image_url": {"url": shown.data_uri}}
        except UserError as error:
            raise _Failed(str(error), kind="sample") from None
        options: dict[str, Any] = {"logprobs": True, "top_logprobs": 20} if sample.candidates else {}
        body: dict[str, Any] = {"chat_template_kwargs": dict(template)} if template else {}
        if lane.knows_memory:
            body["memory"] = False
        begun = time.monotonic()
        try:
            raw = await lane.client.chat.completions.with_raw_response.create(
                model=self.identity,
                messages=sample.messages(image),  # type: ignore[arg-type]
                max_tokens=sample.max_tokens or max_tokens,
                temperature=0,
                seed=self.seed,
                extra_body=body,
                **options,
            )
            reply = raw.parse()
        except (openai.APITimeoutError, openai.RateLimitError, openai.InternalServerError) as error:
            raise _Failed(_short(error), retry_after=_retry_after(error), kind="overrun") from None
        except openai.APIConnectionError as error:
            raise _Failed(_short(error), kind="unreachable") from None
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED and "memory" in body and "memory" in str(error):
                lane.knows_memory = False  # a server that takes no fields but its own has no such memory either
                return await self._ask(lane, sample, max_tokens, template)
            kind = "sample" if error.status_code in _REFUSED else "setup"
            raise _Failed(_short(error), kind=kind) from None
        except ValueError as error:
            raise _Failed(f"an answer that is no JSON ({_short(error)})", kind="overrun") from None
        if remembered := raw.headers.get(REMEMBERED_HEADER):
            raise _Failed(f"answered from the correction {remembered}, not by the model", kind="sample")
        answer = _answer_in(reply)
        if answer is None:
            raise _Failed("an answer that is no chat completion; is the address right?", kind="overrun")
        choice = reply.choices[0]
        scores = None
        if sample.candidates:
            first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
            listed = [(one.token, one.logprob) for one in first.top_logprobs] if first else []
            scores = rank_by_first_token(sample.candidates, listed)
        seconds = round(time.monotonic() - begun, 3)
        fields = {"finish_reason": choice.finish_reason, "seconds": seconds, "endpoint": lane.url}
        return Output(answer, None if scores is None else tuple(scores), fields=fields)


def served_model(endpoint: str, api_key: str) -> str:
    """The first model that an endpoint lists.

    Raises:
        UserError: it cannot be reached or lists none.
    """
    import openai

    with openai.OpenAI(base_url=base_url(endpoint), api_key=api_key, max_retries=1, timeout=20) as client:
        try:
            models = list(client.models.list())
        # Whatever else answers at that address sends a page or broken JSON, which the client does not expect.
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{endpoint} lists no models ({_short(error)}); is it up, and the address right?") from None
    if not models:
        raise UserError(f"{endpoint} lists no models; name one with --model")
    return models[0].id


def base_url(endpoint: str) -> str:
    """The address with its /v1, given with or without it."""
    endpoint = endpoint.rstrip("/")
    return endpoint if endpoint.endswith("/v1") else f"{endpoint}/v1"


def _short(error: Exception) -> str:
    return str(error).replace("\n", " ")[:200] or type(error).__name__


def _next(waiting: "deque[_Waiting]", avoid: str) -> _Waiting | None:
    """The first that may be tried now and did not fail at the endpoint `avoid`; what is passed over goes to the end."""
    now = time.monotonic()
    for _ in range(len(waiting)):
        one = waiting.popleft()
        if one.not_before <= now and (not avoid or one.failed_at != avoid):
            return one
        waiting.append(one)
    return None


def _settle(task: "asyncio.Task[Output]", one: _Waiting, lane: Lane) -> Output | None:
    """The output; None where the sample has to be asked again.

    Raises:
        UserError: the endpoint does not know the model or the key.
    """
    try:
        output = task.result()
    except _Failed as failure:
        if failure.kind == "setup":
            raise UserError(f"{lane.url}: {failure}") from None
        one.attempts += 1
        one.failed_at = lane.url
        if failure.kind == "unreachable":
            # The endpoint's fault, not the sample's: it may be asked elsewhere as often as it takes.
            one.attempts -= 1
            lane.failed(str(failure), min(FIRST_WAIT * 2**lane.failures, _LONGEST_WAIT), _PATIENCE)
        elif failure.kind == "overrun":
            lane.failed(str(failure), failure.retry_after or 0.0, LENIENCE)
            lane.failing.add(one.sample.id)
        # Where the endpoint answers others and fails on a few again and again, these cannot be answered.
        hopeless = one.attempts >= _ATTEMPTS and lane.answered and len(lane.failing) <= _HOPELESS
        if failure.kind == "sample" or hopeless:
            return Output(error=str(failure), fields={"endpoint": lane.url})
        pause = failure.retry_after or min(FIRST_WAIT * 2**one.attempts, _LONGEST_WAIT)
        one.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
        return None
    lane.succeeded()
    return output


def _answer_in(reply: Any) -> str | None:
    """The text of a reply; None where it is a page, an object of another kind, or has no message."""
    choices = getattr(reply, "choices", None)
    message = choices[0].message if isinstance(choices, list) and choices else None
    content = getattr(message, "content", None)
    if isinstance(content, list):  # some servers answer in parts
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return None if message is None else str(content or "")


def _retry_after(error: Exception) -> float | None:
    header = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    return float(header) if header.replace(".", "", 1).isdigit() else None


def rank_by_first_token(candidates: Iterable[str], listed: Sequence[tuple[str, float]]) -> list[float] | None:
    """Log-probability that the answer begins as a candidate does, from the alternatives listed for the first token.

    This is all that a chat completion tells about answers that were not drawn. A candidate that no listed token begins
    gets the least probable one's; None where nothing is listed. Candidates that begin alike tie, and the first wins.
    """
    if not listed:
        return None
    floor = min(logprob for _, logprob in listed)
    scores = []
    for candidate in candidates:
        text = candidate.strip().lower()
        begins = [p for token, p in listed if (word := token.strip().lower()) and text.startswith(word)]
        total = sum(math.exp(p) for p in begins)
        scores.append(math.log(total) if total > 0 else floor)
    return scores
