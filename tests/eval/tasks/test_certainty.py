"""How sure a model's own answers are is fitted on its own answers, one regression for each kind of question."""

import json
import math
from pathlib import Path

import pytest

from fourfold.assistant.training.data import ImageRef, Sample, Turn
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Output
from fourfold.eval.tasks.certainty import _id, fit_certainty
from fourfold.prompts.tasks import Task


def sample(answer: str, kind: str, number: int) -> Sample:
    name = f"scenes/certain-{number}"
    turn = Turn(Task.VQA, f"[vqa] {kind} {number}?", answer, facts={"kind": kind})
    return Sample((ImageRef(name, scene=make_scene(name)),), (turn,))


def test_the_fit_is_the_one_that_made_the_answers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Answers that are right as often as sigmoid(2 x - 1) of their log-odds x says."""
    model = EngineModel(tiny_checkpoint, dtype="float32")  # not asked: the log has all answers
    with EvalLog(tmp_path / "log.jsonl", {"model": "tiny"}) as log:
        samples = []
        for step, odds in enumerate((-1.0, 0.0, 0.5, 1.0, 2.0)):
            right = round(100 / (1 + math.exp(-(2 * odds - 1))))
            for number in range(100):
                one = sample("red", "what", 100 * step + number)
                logprob = -math.log1p(math.exp(-odds))
                log.add(_id(one), Output("red" if number < right else "blue", fields={"logprob": logprob}))
                samples.append(one)
        fits, told = fit_certainty(model, {"what": samples, "colour": samples[:10]}, log)
    assert set(fits) == {"what"}  # ten questions of another kind are too few
    assert fits["what"] == pytest.approx((2, -1), abs=0.15)
    assert told["what"]["questions"] == 500 and told["what"]["right"] == pytest.approx(0.51, abs=0.1)


def test_a_model_is_asked_as_people_ask(tiny_checkpoint: Path, tmp_path: Path) -> None:
    samples = {"count": [sample(str(number % 2), "count", number) for number in range(40)]}
    with EngineModel(tiny_checkpoint, dtype="float32") as model, EvalLog(tmp_path / "log.jsonl", {"a": 1}) as log:
        fits, told = fit_certainty(model, samples, log)
        assert set(fits) == {"number"} and all(map(math.isfinite, fits["number"]))
        assert json.dumps(told)
        again, _ = fit_certainty(model, samples, log)
    assert again == fits
