"""A finished run as a log of Inspect, written by inspect_ai's own writer, so that `inspect view` opens it."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.eval.report.render import shown_picture
from fourfold.eval.report.runs import RunFolder
from fourfold.eval.score import Result

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample, EvalScore

_PICTURES = 1000
"""So many samples carry a thumbnail; beyond that a log would grow too large to be opened."""


def inspect_is_there() -> bool:
    """Whether inspect_ai is installed; it comes with `fourfold[inspect]`."""
    return find_spec("inspect_ai") is not None


def write_inspect_log(folder: Path, result: Result) -> Path:
    """Write `inspect.eval` beside the files of a run: every sample with its picture, answer, and score of each rule.

    Args:
        folder: of the run.
        result: its scores.

    Returns:
        The file.
    """
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSpec, EvalStats, write_eval_log

    run = RunFolder.read(folder)
    begun = json.loads((folder / "run.json").read_text(encoding="utf-8"))["begun"]
    samples = [_sample(one, result, number < _PICTURES) for number, one in enumerate(run.samples)]
    answered = sum(one.error is None for one in samples)
    log = EvalLog(
        status="success",
        eval=EvalSpec(
            created=begun,
            task=f"fourfold/{run.configuration['benchmark']}",
            task_id=run.result["hash"],
            dataset=EvalDataset(
                name=run.configuration["file"], samples=len(samples), sample_ids=[str(one.id) for one in samples]
            ),
            model=f"fourfold/{run.configuration['model']}",
            config=EvalConfig(epochs=1, log_images=True),
            metadata={**run.configuration, "files": run.result["files"]},
        ),
        results=EvalResults(
            total_samples=len(samples), completed_samples=answered, scores=[_score(one) for one in result.scores]
        ),
        stats=EvalStats(started_at=begun, completed_at=run.result["finished"]),
        samples=samples,
    )
    path = folder / "inspect.eval"
    write_eval_log(log, str(path))
    return path


def _score(score: Any) -> "EvalScore":
    from inspect_ai.log import EvalMetric, EvalScore

    shown = score.headline
    metrics = {score.metric: EvalMetric(name=score.metric, value=shown.value / 100)}
    if shown.standard_error is not None:
        metrics["stderr"] = EvalMetric(name="stderr", value=shown.standard_error / 100)
    return EvalScore(name=score.rule, scorer=score.rule, scored_samples=len(score.by_sample), metrics=metrics)


def _sample(record: Mapping[str, Any], result: Result, with_picture: bool) -> "EvalSample":
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import (
        ChatMessageUser,
        Content,
        ContentImage,
        ContentText,
        ModelOutput,
    )
    from inspect_ai.scorer import Score

    content: list[Content] = [ContentText(text=record["prompt"])]
    picture = shown_picture(record.get("shown_file")) if with_picture else None
    if picture is not None:
        content.insert(0, ContentImage(image=picture))
    question = ChatMessageUser(content=content)
    answer = record.get("answer") or ""
    output = ModelOutput.from_content(model=str(result.benchmark), content=answer)
    scores = {
        one.rule: Score(value=one.by_sample[record["id"]], answer=answer)
        for one in result.scores
        if record["id"] in one.by_sample
    }
    error = record.get("error")
    return EvalSample(
        id=record["id"],
        epoch=1,
        input=[question],
        target=record.get("reference") or "",
        choices=record.get("candidates"),
        messages=[question, *(choice.message for choice in output.choices)],
        output=output,
        scores=scores,
        metadata={"image": record["image"], "question": record["question"], **record.get("groups", {})},
        error=EvalError(message=error, traceback="", traceback_ansi="") if error else None,
    )
