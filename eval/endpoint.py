"""Asking OpenAI-compatible endpoints: several at once, as fast as they bear, and never the same thing twice."""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fourfold.eval.asking import Ask
from fourfold.eval.images import data_uri
from fourfold.eval.log import AnswerLog
from fourfold.eval.progress import progress_bar
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_START = 4  # requests in flight at first
_ATTEMPTS = 6  # of one sample, before its failure is written down
_PATIENCE = 6  # connection failures in a row after which an endpoint is given up
_LENIENCE = 20  # the same for answers that say "too busy" or "failed"
_HOPELESS = 3  # so few samples may fail in turn before the endpoint is suspected instead
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_REFUSED = frozenset({400, 413, 422})  # this sample, not the endpoint, is the matter


@dataclass(frozen=True)
class Terms:
    """What is the same for every request.

    Attributes:
        model: its served name.
        api_key: for the endpoints.
        max_tokens: length of an answer.
        seed: sent along.
        concurrency: requests in flight an endpoint at most.
        template: variables for the chat template, sent as `chat_template_kwargs`; not sent where there are none.
        timeout: seconds that an answer may take.
    """

    model: str
    api_key: str
    max_tokens: int
    seed: int
    concurrency: int
    template: Mapping[str, bool] = field(default_factory=dict)
    timeout: float = 120.0


@dataclass
class Lane:
    """One endpoint with its own speed: a window that grows with successes and halves when it is overrun."""

    url: str
    client: "AsyncOpenAI"
    ceiling: int
    window: float = field(init=False)
    running: int = 0
    failures: int = 0
    answered: int = 0
    failing: set[str] = field(default_factory=set)  # samples that failed here since the last answer
    resting_until: float = 0.0
    dead: str | None = None

    def __post_init__(self) -> None:
        self.window = float(min(_START, self.ceiling))

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

    def overrun(self, reason: str, wait: float) -> None:
        """Halve the window and rest; give the endpoint up where nothing else comes from it any more."""
        self._slow_down(reason, wait, _LENIENCE)

    def unreachable(self, reason: str) -> None:
        """Rest longer each time; give the endpoint up in the end."""
        self._slow_down(reason, min(_FIRST_WAIT * 2**self.failures, _LONGEST_WAIT), _PATIENCE)

    def _slow_down(self, reason: str, wait: float, patience: int) -> None:
        self.failures += 1
        self.window = max(self.window / 2, 1.0)
        self.resting_until = max(self.resting_until, time.monotonic() + wait)
        if self.failures >= patience:
            self.dead = reason


@dataclass
class _Waiting:
    ask: Ask
    attempts: int = 0
    not_before: float = 0.0
    failed_at: str = ""  # the endpoint that failed on it last; another one is tried first


class _Failed(Exception):
    """What went wrong with one request, and whose fault it is."""

    def __init__(self, message: str, *, retry_after: float | None = None, kind: str) -> None:
        super().__init__(message)
        self.kind = kind  # "overrun", "unreachable", "sample" or "setup"
        self.retry_after = retry_after


def ask_endpoints(asks: Sequence[Ask], log: AnswerLog, endpoints: Sequence[str], terms: Terms) -> None:
    """Ask everything that has no answer yet; every answer is in the log before the next is awaited.

    Raises:
        UserError: an endpoint does not know the model or the key, or no endpoint answers any more; what was answered
        stays.
    """
    asyncio.run(_ask_all(asks, log, endpoints, terms))


def served_model(endpoint: str, api_key: str) -> str:
    """The first model that an endpoint lists.

    Raises:
        UserError: it cannot be reached or lists none.
    """
    import openai

    with openai.OpenAI(base_url=_base(endpoint), api_key=api_key, max_retries=1, timeout=20) as client:
        try:
            models = list(client.models.list())
        # Whatever else answers at that address sends a page or broken JSON, which the client does not expect.
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{endpoint} lists no models ({_short(error)}); is it up, and the address right?") from None
    if not models:
        raise UserError(f"{endpoint} lists no models; name one with --model")
    return models[0].id


def _base(endpoint: str) -> str:
    endpoint = endpoint.rstrip("/")
    return endpoint if endpoint.endswith("/v1") else f"{endpoint}/v1"


def _short(error: Exception) -> str:
    return str(error).replace("\n", " ")[:200] or type(error).__name__


async def _ask_all(asks: Sequence[Ask], log: AnswerLog, endpoints: Sequence[str], terms: Terms) -> None:
    import openai

    waiting = deque(_Waiting(ask) for ask in asks if ask.key not in log.done)
    with progress_bar() as progress:
        bar = progress.add_task("asking", total=len(asks), completed=len(asks) - len(waiting))
        lanes = [
            Lane(
                url,
                openai.AsyncOpenAI(base_url=_base(url), api_key=terms.api_key, max_retries=0, timeout=terms.timeout),
                terms.concurrency,
            )
            for url in endpoints
        ]
        running: dict[asyncio.Task[dict[str, Any]], tuple[_Waiting, Lane]] = {}
        try:
            while waiting or running:
                for lane in sorted(lanes, key=lambda lane: lane.running / lane.window):
                    alone = all(other.dead for other in lanes if other is not lane)
                    while lane.free and (one := _next(waiting, "" if alone else lane.url)) is not None:
                        request = _ask_one(lane.client, one.ask, terms)
                        running[asyncio.create_task(request)] = (one, lane)
                        lane.running += 1
                if not running and all(lane.dead for lane in lanes):
                    reasons = "; ".join(f"{lane.url}: {lane.dead}" for lane in lanes)
                    raise UserError(
                        f"no endpoint answers any more ({reasons}); {len(log.done)} answers are kept in {log.path}, "
                        "run the same command again to go on"
                    )
                if not running:
                    await asyncio.sleep(0.05)
                    continue
                finished, _ = await asyncio.wait(running, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    one, lane = running.pop(task)
                    lane.running -= 1
                    if _settle(task, one, lane, log, waiting):
                        progress.advance(bar)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for lane in lanes:
                await lane.client.close()


def _next(waiting: "deque[_Waiting]", avoid: str) -> _Waiting | None:
    """The first that may be tried now and did not fail at the endpoint `avoid`; what is passed over goes to the end."""
    now = time.monotonic()
    for _ in range(len(waiting)):
        one = waiting.popleft()
        if one.not_before <= now and (not avoid or one.failed_at != avoid):
            return one
        waiting.append(one)
    return None


def _settle(
    task: "asyncio.Task[dict[str, Any]]", one: _Waiting, lane: Lane, log: AnswerLog, waiting: "deque[_Waiting]"
) -> bool:
    """Write an answer down, or put the sample back; whether it is settled."""
    try:
        fields = task.result()
    except _Failed as failure:
        if failure.kind == "setup":
            raise UserError(f"{lane.url}: {failure}") from None
        one.attempts += 1
        one.failed_at = lane.url
        if failure.kind == "unreachable":
            # The endpoint's fault, not the sample's: it may be asked elsewhere as often as it takes.
            one.attempts -= 1
            lane.unreachable(str(failure))
        elif failure.kind == "overrun":
            lane.overrun(str(failure), failure.retry_after or 0.0)
            lane.failing.add(one.ask.key)
        # Where the endpoint answers others and fails on a few again and again, these cannot be answered.
        hopeless = one.attempts >= _ATTEMPTS and lane.answered and len(lane.failing) <= _HOPELESS
        if failure.kind == "sample" or hopeless:
            log.add(one.ask.key, error=str(failure), endpoint=lane.url)
            return True
        pause = failure.retry_after or min(_FIRST_WAIT * 2**one.attempts, _LONGEST_WAIT)
        one.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
        waiting.append(one)
        return False
    lane.succeeded()
    log.add(one.ask.key, **fields, endpoint=lane.url)
    return True


async def _ask_one(client: "AsyncOpenAI", ask: Ask, terms: Terms) -> dict[str, Any]:
    import openai

    image = None if ask.image is None else {"type": "image_url", "image_url": {"url": data_uri(ask.image, ask.edit)}}
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 20} if ask.candidates else {}
    if terms.template:
        options["extra_body"] = {"chat_template_kwargs": dict(terms.template)}
    begun = time.monotonic()
    try:
        reply = await client.chat.completions.create(
            model=terms.model,
            messages=ask.messages(image),  # type: ignore[arg-type]
            max_tokens=terms.max_tokens,
            temperature=0,
            seed=terms.seed,
            **options,
        )
    except (openai.APITimeoutError, openai.RateLimitError, openai.InternalServerError) as error:
        raise _Failed(_short(error), retry_after=_retry_after(error), kind="overrun") from None
    except openai.APIConnectionError as error:
        raise _Failed(_short(error), kind="unreachable") from None
    except openai.APIStatusError as error:
        kind = "sample" if error.status_code in _REFUSED else "setup"
        raise _Failed(_short(error), kind=kind) from None
    except ValueError as error:
        raise _Failed(f"an answer that is no JSON ({_short(error)})", kind="overrun") from None
    answer = _answer_in(reply)
    if answer is None:
        raise _Failed("an answer that is no chat completion; is the address right?", kind="overrun")
    choice = reply.choices[0]
    fields: dict[str, Any] = {
        "answer": answer,
        "finish_reason": choice.finish_reason,
        "seconds": round(time.monotonic() - begun, 3),
    }
    if ask.candidates:
        first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
        listed = [(one.token, one.logprob) for one in first.top_logprobs] if first else []
        fields["scores"] = rank_by_first_token(ask.candidates, listed)
    return fields


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
