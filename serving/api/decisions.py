"""POST /v1/decisions, OpenAI's: yes or no, one of several, how much; with probabilities, and without a word drawn."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastapi import APIRouter, Depends, Request
from openai.types.decision import Answer as DecisionAnswer
from openai.types.decision import (
    AnswerAnswerResourceChoice,
    AnswerAnswerResourceChoiceProbability,
    AnswerAnswerResourcePredicate,
    AnswerAnswerResourceRefusal,
    AnswerAnswerResourceScore,
    AnswerAnswerResourceScoreProbability,
    Decision,
    Usage,
    UsageInputTokensDetails,
    UsageOutputTokensDetails,
)
from starlette.responses import Response

from fourfold.prompts.errors import UserError
from fourfold.serving.api.answering import Answering, disconnected
from fourfold.serving.api.chat_response import encode
from fourfold.serving.api.decision_schema import DecisionRequest
from fourfold.serving.api.errors import ApiError, require_json
from fourfold.serving.api.intake import Conversation
from fourfold.serving.api.request_tracker import InFlightRequest, busy, shutting_down, unless_gone
from fourfold.serving.api.translation import chat_request, in_words_of
from fourfold.serving.decisions.decide import Decided, Decider, calibration_of
from fourfold.serving.engine.requests import EngineClosed, QueueFull
from fourfold.serving.engine.requests import Request as EngineRequest
from fourfold.serving.looking import EYES, Looking

SOURCES_HEADER = "x-fourfold-sources"
"""Who was asked, separated by commas: `model`; `read-out + model`, `shown once` or `detector` where the eyes knew."""
PROBABILITIES_HEADER = "x-fourfold-probabilities"
"""`calibrated`, or `raw` where a question has no temperature: none was fitted for its kind, or an adapter answers."""
_AT_ONCE = 4
"""Requests that take turns at the model; it reads for one at a time."""


def decision_routes(answering: Answering, looking: Looking | None) -> APIRouter:
    """Where there is a `looking`, the model's name with `EYES` asks it whether things are there."""
    router = APIRouter()
    threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="decide")
    waiting = 0

    @router.post("/v1/decisions", response_model=Decision, dependencies=[Depends(require_json)])
    async def decisions(body: DecisionRequest, request: Request) -> Response:
        """Answer questions about one input, which is read once for all of them."""
        nonlocal waiting
        fields, places = body.chat()
        with in_words_of(places):
            chat = chat_request(fields)
            adapter = answering.checked(chat)
            if waiting >= answering.limits.preparing:
                raise busy()
            found = await unless_gone(disconnected(request), answering.tracker.read(chat))
        if found is None:
            return Response(status_code=400)  # nobody reads it
        in_flight, conversation = found
        waiting += 1
        eyes = looking if (body.model or "").endswith(EYES) else None

        def done(work: "asyncio.Future[tuple[Decision, dict[str, str]]]") -> None:
            nonlocal waiting
            waiting -= 1
            answering.tracker.end(in_flight)
            if not work.cancelled():
                work.exception()  # taken note of, where the client left

        decide = partial(_decide, answering, eyes, body, adapter, conversation, in_flight)
        work = asyncio.get_running_loop().run_in_executor(threads, decide)
        work.add_done_callback(done)
        try:
            answered = await unless_gone(disconnected(request), _shielded(work))
        finally:
            in_flight.cancel()  # where the client left, the thread ends with its next answer
        if answered is None:
            return Response(status_code=400)
        decision, headers = answered
        return Response(encode(decision), media_type="application/json", headers=headers)

    return router


async def _shielded(work: "asyncio.Future[tuple[Decision, dict[str, str]]]") -> tuple[Decision, dict[str, str]]:
    return await asyncio.shield(work)


def _decide(
    answering: Answering,
    looking: Looking | None,
    body: DecisionRequest,
    adapter: str | None,
    conversation: Conversation,
    in_flight: InFlightRequest,
) -> tuple[Decision, dict[str, str]]:
    """The answers, and the headers that tell of their probabilities; on a thread of its own."""
    engine = answering.engine
    context, questions = body.asked(conversation.messages)
    deadline = time.monotonic() + answering.limits.request_seconds
    decider = Decider(engine, EngineRequest(context, adapter=adapter), calibration_of(engine, adapter), looking)
    found: list[Decided] = []
    if in_flight.cancelled:  # while others had their turn
        raise shutting_down()
    try:
        for answer in decider.decide(questions):
            found.append(answer)
            if in_flight.cancelled:
                raise shutting_down()  # or the client left, and nobody reads it
            if time.monotonic() > deadline:
                late = questions[len(found) :]
                found += [Decided(question, refusal="the time of the request was used up") for question in late]
                break
    except QueueFull:
        raise busy() from None
    except EngineClosed:
        raise shutting_down() from None
    except UserError as error:
        if adapter is not None and all(known.name != adapter for known in engine.adapters):
            raise ApiError(404, str(error), param="model", code="model_not_found") from None
        # Everything else that the engine could find wrong with an input was checked before.
        raise ApiError(400, str(error), param="input", code="context_length_exceeded") from None
    usage = _usage(decider, found)
    kinds = Counter("refusal" if answer.refusal else answer.question.kind for answer in found)
    cached = usage.input_tokens_details.cached_tokens
    answering.tracker.metrics.count_decisions(kinds, usage.input_tokens, cached)
    calibrated = all(answer.calibrated for answer in found if not answer.refusal)
    answers = [_answer(answer) for answer in found]
    decision = Decision(answers=answers, model=body.model or engine.model_name, usage=usage)
    sources = sorted({answer.source for answer in found if not answer.refusal})
    return decision, {
        PROBABILITIES_HEADER: "calibrated" if calibrated else "raw",
        SOURCES_HEADER: ", ".join(sources),
    }


def _usage(decider: Decider, found: Sequence[Decided]) -> Usage:
    """The context counts once, however many questions were asked; nothing is written."""
    read = decider.context_tokens + sum(answer.tokens for answer in found)
    written = decider.context_tokens - decider.cached_tokens
    return Usage(
        input_tokens=read,
        input_tokens_details=UsageInputTokensDetails(cached_tokens=decider.cached_tokens, cache_write_tokens=written),
        output_tokens=0,
        output_tokens_details=UsageOutputTokensDetails(reasoning_tokens=0),
        total_tokens=read,
    )


def _answer(answer: Decided) -> DecisionAnswer:
    question = answer.question
    if answer.refusal is not None:
        # The reason is ours: OpenAI's clients pass on fields that they do not know.
        return AnswerAnswerResourceRefusal(type="refusal", name=question.name, reason=answer.refusal)  # type: ignore[call-arg]
    if question.kind == "predicate":
        # As a refusal's reason, who says so is a field that clients pass on.
        return AnswerAnswerResourcePredicate(
            type="predicate",
            name=question.name,
            probability=answer.probabilities[0],
            source=answer.source,  # type: ignore[call-arg]
        )
    pairs = list(zip(question.options, answer.probabilities, strict=True))
    if question.kind == "choice":
        return AnswerAnswerResourceChoice(
            type="choice",
            name=question.name,
            choice=question.options[answer.likeliest].value,
            confidence=answer.confidence,
            probabilities=[AnswerAnswerResourceChoiceProbability(value=o.value, probability=p) for o, p in pairs],
            source=answer.source,  # type: ignore[call-arg]
        )
    return AnswerAnswerResourceScore(
        type="score",
        name=question.name,
        score=answer.score,
        confidence=answer.confidence,
        probabilities=[
            AnswerAnswerResourceScoreProbability(value=level, label=str(option.value), probability=p)
            for level, (option, p) in enumerate(pairs)
        ],
        source=answer.source,  # type: ignore[call-arg]
    )
