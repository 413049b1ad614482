"""Asking OpenAI-compatible endpoints: several at once, as fast as they bear, and never the same thing twice."""

import asyncio
import math
import random
import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fourfold.assistant.chat.thinking import split_thought
from fourfold.assistant.refine.memory import REMEMBERED_HEADER
from fourfold.assistant.unicode import well_formed
from fourfold.eval.dialect import Dialect, sent_fields
from fourfold.eval.model import AllRefused, Model, NoAnswer, OnOutput, Output
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_START = 3  # requests in flight at first
_COMMON = 3  # refusals for the same reason, and nothing else, that stop a run
_WAYS = 6  # of asking one question that a server may refuse
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
    dialect: Dialect = field(default_factory=Dialect)
    taken: set[str] = field(default_factory=set)  # fields that it has accepted
    other_address: str = ""  # where to ask instead if the first answer is 404

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
        self.kind = kind  # "overrun", "unreachable", "sample", "refused" (a sample, by the server) or "setup"
        self.retry_after = retry_after


class EndpointModel(Model):
    """OpenAI-compatible servers that serve the same model; an adapter is a served name like any other.

    Corrections that a server remembers are no answers of its model: memory is turned off with every request, and an
    answer that is marked as remembered all the same counts as none.

    Args:
        urls: base URLs as the servers have them; one that is a host alone gets /v1.
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
            address, other = addresses(url)
            client = openai.AsyncOpenAI(base_url=address, api_key=self.api_key, max_retries=0, timeout=_TIMEOUT)
            lanes.append(Lane(url, client, self.concurrency, float(min(_START, self.concurrency)), other_address=other))
        refusals: Counter[str] = Counter()
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
                    output = _settle(task, one, lane, refusals)
                    if output is None:
                        waiting.append(one)
                        continue
                    on_output(one.sample, output)
                    common = output.error and refusals[_alike(output.error)] >= _COMMON
                    if common and not any(one.answered for one in lanes):
                        raise AllRefused(f"{lane.url} refuses every question: {output.error}")
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for lane in lanes:
                await lane.client.close()

    async def _ask(self, lane: Lane, sample: Sample, max_tokens: int, template: Mapping[str, bool]) -> Output:
        try:
            shown = sample.attachment()
            image = None if shown is None else {"type": "image_url", "image_url": {"url": shown.data_uri}}
        except UserError as error:
            raise _Failed(str(error), kind="sample") from None
        begun = time.monotonic()
        raw, reply, dialect = await self._request(lane, sample, image, max_tokens, template)
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
        told = split_thought(answer)
        apart = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None)
        thought = "\n".join(filter(None, (apart if isinstance(apart, str) else None, told.thought)))
        fields = {"finish_reason": choice.finish_reason, "seconds": seconds, "endpoint": lane.url, **dialect.told}
        if thought:
            fields["thought"] = well_formed(thought)
        return Output(told.answer, None if scores is None else tuple(scores), fields=fields)

    async def _request(
        self, lane: Lane, sample: Sample, image: dict[str, Any] | None, max_tokens: int, template: Mapping[str, bool]
    ) -> tuple[Any, Any, Dialect]:
        """The raw response, what it holds, and how it was asked for in the end.

        What a server refuses of a request is left out or said in another way, until it has accepted it once.

        Raises:
            _Failed: there is none.
        """
        import openai

        dialect = begun = lane.dialect
        ways = 0
        while True:
            ways, client = ways + 1, lane.client
            fields = dialect.fields(
                max_tokens=sample.max_tokens or max_tokens,
                seed=self.seed,
                ranked=bool(sample.candidates),
                template=template,
            )
            try:
                raw = await client.chat.completions.with_raw_response.create(
                    model=self.identity,
                    messages=sample.messages(image),  # type: ignore[arg-type]
                    **fields,
                )
                reply = raw.parse()
                break
            except (openai.APITimeoutError, openai.RateLimitError, openai.InternalServerError) as error:
                raise _Failed(_short(error), retry_after=_retry_after(error), kind="overrun") from None
            except openai.APIConnectionError as error:
                raise _Failed(_short(error), kind="unreachable") from None
            except openai.NotFoundError as error:
                if client is lane.client:  # else another request has found the way meanwhile
                    if not lane.other_address or lane.answered:
                        raise _Failed(_short(error), kind="setup") from None
                    lane.client = client.with_options(base_url=lane.other_address)
                    lane.other_address = ""
            except openai.APIStatusError as error:
                if error.status_code not in _REFUSED:
                    raise _Failed(_short(error), kind="setup") from None
                other = dialect.otherwise(_short(error), sent_fields(fields), lane.taken)
                if other is None or ways == _WAYS:
                    raise _Failed(_short(error), kind="refused") from None
                dialect = other
            except ValueError as error:
                raise _Failed(f"an answer that is no JSON ({_short(error)})", kind="overrun") from None
        lane.taken |= sent_fields(fields)
        if dialect != begun:
            lane.dialect = dialect
        return raw, reply, dialect


def served_model(endpoint: str, api_key: str) -> str:
    """The first model that an endpoint lists.

    Raises:
        UserError: it cannot be reached or lists none.
    """
    import openai

    trouble: Exception | None = None
    for address in filter(None, addresses(endpoint)):
        try:
            with openai.OpenAI(base_url=address, api_key=api_key, max_retries=1, timeout=20) as client:
                models = list(client.models.list())
        except openai.NotFoundError as error:
            trouble = trouble or error
            continue
        # Whatever else answers at that address sends a page or broken JSON, which the client does not expect.
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            trouble = error
            break
        if not models:
            raise UserError(f"{endpoint} lists no models; name one with --model")
        return models[0].id
    assert trouble is not None
    raise UserError(f"{endpoint} lists no models ({_short(trouble)}); is it up, and the address right?")


def addresses(endpoint: str) -> tuple[str, str]:
    """Where an endpoint is asked, and where instead if that is nowhere: as given, then with /v1; a host alone with it.

    Raises:
        UserError: it is no address.
    """
    given = endpoint.strip().rstrip("/")
    for path in ("/chat/completions", "/completions", "/models"):
        given = given.removesuffix(path)
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"{endpoint!r} is no address of an endpoint; it begins with http:// or https://")
    if given.endswith("/v1"):
        return given, ""
    return (given, f"{given}/v1") if parts.path else (f"{given}/v1", given)


def _short(error: Exception) -> str:
    said = str(error)
    # The client's own words leave out what a server says in another form than OpenAI's.
    body = getattr(error, "body", None)
    if body and (not isinstance(body, dict) or "message" not in body):
        said = f"{said} - {body}"
    return well_formed(said).replace("\n", " ")[:300] or type(error).__name__


def _alike(reason: str) -> str:
    """What two refusals for one reason have in common: no numbers, no quoted names."""
    return re.sub(r"'[^']{0,40}'|\d+|[0-9a-f]{8,}", "", reason)


def _next(waiting: "deque[_Waiting]", avoid: str) -> _Waiting | None:
    """The first that may be tried now and did not fail at the endpoint `avoid`; what is passed over goes to the end."""
    now = time.monotonic()
    for _ in range(len(waiting)):
        one = waiting.popleft()
        if one.not_before <= now and (not avoid or one.failed_at != avoid):
            return one
        waiting.append(one)
    return None


def _settle(task: "asyncio.Task[Output]", one: _Waiting, lane: Lane, refusals: Counter[str]) -> Output | None:
    """The output; None where the sample has to be asked again. Refusals are counted by their reason.

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
        if failure.kind == "refused":
            refusals[_alike(str(failure))] += 1
        if failure.kind in ("sample", "refused") or hopeless:
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
