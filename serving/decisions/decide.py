"""From questions to probabilities: the model's likelihood of each answer, divided by the checkpoint's temperature."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from fourfold.assistant.checkpoints.calibration import CALIBRATION_FILE, Calibration, read_calibration
from fourfold.prompts.errors import UserError
from fourfold.serving.decisions.counting import DETECTOR, count_of, counts_of
from fourfold.serving.decisions.presence import presence_of
from fourfold.serving.decisions.questions import DecisionQuestion
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.prompt.builder import images_of
from fourfold.serving.engine.requests import Request
from fourfold.serving.engine.scoring import Ranker, Ranking
from fourfold.serving.looking import Looking
from fourfold.serving.looking.eyes import Eyes

log = logging.getLogger("fourfold.calibration")

_LONGEST = 64
"""Characters that a token may have on average before a question is refused without being tokenised."""


@dataclass(frozen=True)
class Decided:
    """The answer to a question.

    Attributes:
        question: that was asked.
        probabilities: of its options, in their order; together 1. Empty where it was refused.
        calibrated: whether a temperature was fitted for this kind of question, or the eyes were asked.
        log_likelihoods: mean ones of the options, from which these follow.
        tokens: that were read for this question alone.
        refusal: why it was not asked; None where it was.
        source: who says so: "model", "detector", or as in `serving.looking.Claim`.
    """

    question: DecisionQuestion
    probabilities: tuple[float, ...] = ()
    log_likelihoods: tuple[float, ...] = ()
    calibrated: bool = False
    tokens: int = 0
    refusal: str | None = None
    source: str = "model"

    @property
    def likeliest(self) -> int:
        """Number of the likeliest option; the first of several."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """How concentrated the probabilities are: 1 - entropy / its maximum, 0 (all alike) to 1 (one is certain)."""
        entropy = -sum(p * math.log(p) for p in self.probabilities if p > 0)
        return min(max(1 - entropy / math.log(len(self.probabilities)), 0.0), 1.0)

    @property
    def score(self) -> float:
        """Expected number of the level, counted from 0."""
        return sum(level * p for level, p in enumerate(self.probabilities))


@dataclass
class Decider:
    """Asks questions about one context, which is read once for all of them.

    Args:
        engine: that answers.
        context: messages and adapter; what else the request holds is of no interest.
        calibration: of the checkpoint; None for raw probabilities.
        looking: sees whether a thing is there and how many there are, where the context shows one picture and the
            question none; None for the language model alone.
    """

    engine: Engine
    context: Request
    calibration: Calibration | None
    looking: Looking | None = None
    _ranker: Ranker | None = field(default=None, init=False)

    def decide(self, questions: Sequence[DecisionQuestion]) -> Iterator[Decided]:
        """Answer the questions one after the other; closing the iterator ends the work.

        Raises:
            UserError: the context is malformed or too long, or its adapter is not loaded.
            QueueFull: running answers leave no room.
            EngineClosed: the engine was closed.
        """
        images = images_of(self.context.messages) if self.context.messages else []
        eyes = self.looking.eyes(images[0]) if self.looking is not None and len(images) == 1 else None
        ranker = self._ranker = self.engine.ranker(self.context)
        refusals = [self._refusal(question) for question in questions]
        wanted = [
            q.ranked(image=bool(images)) for q, refusal in zip(questions, refusals, strict=True) if refusal is None
        ]
        rankings = ranker.rank(wanted)
        try:
            for question, refusal in zip(questions, refusals, strict=True):
                if refusal is not None:
                    yield Decided(question, refusal=refusal)
                else:
                    yield _seen(self._decided(question, next(rankings)), eyes)
        finally:
            rankings.close()

    @property
    def context_tokens(self) -> int:
        """Of the context, once a question is answered."""
        return self._ranker.context_tokens if self._ranker else 0

    @property
    def cached_tokens(self) -> int:
        """How many of them were known from an earlier request."""
        return self._ranker.cached_tokens if self._ranker else 0

    def _refusal(self, question: DecisionQuestion) -> str | None:
        if not question.words:
            return "the question has no words"
        length = len(question.words) + sum(len(option.text) + len(option.description) for option in question.options)
        if length > _LONGEST * self.engine.context_length:
            return f"the question is far longer than the {self.engine.context_length} tokens that the model reads"
        return None

    def _decided(self, question: DecisionQuestion, ranking: Ranking) -> Decided:
        if ranking.refusal is not None:
            return Decided(question, tokens=ranking.tokens, refusal=ranking.refusal)
        temperature = self.calibration.temperatures.get(question.kind) if self.calibration else None
        scores = tuple(ranking.means)
        found = probabilities(scores, temperature or 1.0)
        return Decided(question, found, scores, temperature is not None, ranking.tokens)


def _seen(answer: Decided, eyes: Eyes | None) -> Decided:
    """The answer of eyes and model together, where the eyes know what is asked for."""
    question = answer.question
    if eyes is None or answer.refusal is not None or len(question.content) > 1:
        return answer
    try:
        found = _by_eyes(eyes, answer)
    except UserError as error:  # the model's own answer is better than none
        log.warning("the eyes saw nothing: %s", error)
        return answer
    if found is None:
        return answer
    return replace(answer, probabilities=found[0], calibrated=True, source=found[1])


def _by_eyes(eyes: Eyes, answer: Decided) -> tuple[tuple[float, ...], str] | None:
    """Probabilities of the options by the eyes, and who says so; None where they know nothing of the question."""
    question = answer.question
    if question.kind != "predicate":
        counts = counts_of(eyes, question.words, [option.text for option in question.options])
        return None if counts is None else (counts, DETECTOR)
    if (many := count_of(eyes, question.words)) is not None:
        return (many, 1 - many), DETECTOR
    found = presence_of(eyes, question.words, probabilities(answer.log_likelihoods, 1.0)[0])
    return None if found is None else ((found[0], 1 - found[0]), found[1])


def calibration_of(engine: Engine, adapter: str | None) -> Calibration | None:
    """Of what answers: None where its checkpoint has none that can be used, or an adapter changes its likelihoods."""
    if (engine.default_adapter if adapter is None else adapter) or engine.checkpoint is None:
        return None
    path = engine.checkpoint / CALIBRATION_FILE
    try:
        return _read(engine.checkpoint, path.stat().st_mtime_ns) if path.exists() else None
    except UserError as error:
        log.warning("probabilities are raw: %s", error)
        return None


@lru_cache(maxsize=8)  # the checkpoint's weights are hashed
def _read(checkpoint: Path, changed: int) -> Calibration | None:
    return read_calibration(checkpoint)


def probabilities(scores: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Softmax of log-likelihoods divided by a temperature."""
    highest = max(scores)
    parts = [math.exp((score - highest) / temperature) for score in scores]
    return tuple(part / sum(parts) for part in parts)
