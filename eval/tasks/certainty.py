"""How likely a model's own answer is right, of the probability that it gave it: a logistic regression for each kind."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fourfold.assistant.progress import Progress, progress_bar
from fourfold.assistant.readouts.calibration import fit_logistic
from fourfold.assistant.training import data
from fourfold.assistant.training.data import Turn
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Output
from fourfold.eval.scorers.answers import score_answers
from fourfold.eval.scorers.probabilities import reliability
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.requests import Request, Sampling
from fourfold.serving.looking.certainty import log_odds_of
from fourfold.serving.looking.kinds import Kind

KINDS: Mapping[Kind, tuple[str, ...]] = {
    Kind.YES_NO: ("doing",),
    Kind.RELATION: ("relation",),
    Kind.COLOUR: ("colour",),
    Kind.NUMBER: ("count",),
    Kind.WHAT: ("what", "annotated"),
}
"""The sorts of `training.data.calibration` that stand for each kind of question."""
_LEAST = 40  # questions that a regression is fitted on
_TOKENS = 24  # of an answer
_TOGETHER = 24  # questions asked at a time


def fit_certainty(
    model: EngineModel, samples: Mapping[str, Sequence[data.Sample]], log: EvalLog
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Slope and bias for each kind of question that there are enough of, as `MeasuredCard.certainty` has them.

    Args:
        model: is asked as people ask, without a tag.
        samples: never held-out ones, by their sort.
        log: of this model; what it has is not asked again.

    Returns:
        The fits by kind; and by kind how many questions and images there were, how many answers were right, and the
        bins of a reliability diagram.
    """
    fits: dict[str, tuple[float, float]] = {}
    told: dict[str, Any] = {}
    for kind, sorts in KINDS.items():
        asked = [one for sort in sorts for one in samples.get(sort, ()) if _is_of(sort, one.turns[0])]
        if len(asked) < _LEAST:
            continue
        outputs = _ask(model, asked, log, str(kind))
        right = [_score(sample.turns[0], output.text or "") for sample, output in zip(asked, outputs, strict=True)]
        odds = np.array([log_odds_of(output.fields["logprob"]) for output in outputs])
        slope, bias = map(float, fit_logistic(odds[:, None], np.array(right)))
        fits[kind] = round(slope, 4), round(bias, 4)
        predicted = [float(chance) for chance in 1 / (1 + np.exp(-(slope * odds + bias)))]
        told[kind] = {
            "questions": len(asked),
            "images": len({sample.image.id for sample in asked}),
            "right": round(float(np.mean(right)), 4),
            "reliability": [asdict(one) for one in reliability(predicted, [score >= 0.5 for score in right])],
        }
    return fits, told


def _is_of(sort: str, turn: Turn) -> bool:
    """Of what people wrote about rooms only what they asked for by "what"; they counted and named colours, too."""
    return sort != "annotated" or turn.facts["kind"] == "what"


def _ask(model: EngineModel, asked: Sequence[data.Sample], log: EvalLog, name: str) -> list[Output]:
    """The answers, each with the log-probability of all its tokens as `logprob`."""
    ids = [_id(sample) for sample in asked]
    waiting = [(id, sample) for id, sample in dict(zip(ids, asked, strict=True)).items() if id not in log.done]
    with progress_bar(None) as tell:
        for start in range(0, len(waiting), _TOGETHER):
            tell(Progress(f"certainty, {name}", start, len(waiting)))
            part = waiting[start : start + _TOGETHER]
            for (id, _), completion in zip(
                part, model.engine.generate([_request(one) for _, one in part]), strict=True
            ):
                total = math.fsum(token.logprob for token in completion.logprobs or ())
                log.add(id, Output(completion.text, fields={"logprob": total}))
    return [log.done[id] for id in ids]


def _request(sample: data.Sample) -> Request:
    (turn,) = sample.turns
    words = turn.question.removeprefix(Task.VQA.tag).strip()
    content = [{"type": "image", "image": sample.image.open()}, {"type": "text", "text": words}]
    return Request([{"role": "user", "content": content}], Sampling(max_tokens=_TOKENS, logprobs=0), adapter="")


def _id(sample: data.Sample) -> str:
    parts = (sample.image.key, sample.turns[0].question)
    return f"certainty/{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:24]}"


def _score(turn: Turn, answer: str) -> float:
    kind = str(turn.facts["kind"])
    [score] = score_answers("existence" if kind == "doing" else kind, [turn], [answer])
    return score
