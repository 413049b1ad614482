"""Scoring a log again: under every rule of its benchmark, or of its kind of question where no benchmark is known."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.assistant.chat.thinking import split_thought
from fourfold.eval.audit.logs import Item, SampleLog
from fourfold.eval.benchmarks import Benchmark, Options, RuleScore, benchmark_named
from fourfold.eval.benchmarks.choices import MultipleChoice
from fourfold.eval.benchmarks.documents import ShortAnswers
from fourfold.eval.benchmarks.vqa import VQA
from fourfold.eval.benchmarks.yes_no_groups import YesNo
from fourfold.eval.data.official import image_name, official_records
from fourfold.eval.predictions import Prediction
from fourfold.eval.scorers.choice import READERS
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

QUESTIONS = MultipleChoice("questions with options", {name: name for name in READERS})
ANSWERS, VERDICTS = ShortAnswers(), YesNo()


@dataclass(frozen=True)
class Rescored:
    """A log under every rule.

    Attributes:
        log: what was read.
        benchmark: whose rules these are.
        samples: the questions that should be answered, those that the log lacks too.
        answers: by sample id, what the log has.
        scores: of each rule, the benchmark's headline first; a question without an answer is wrong.
        missing: ids of questions that the log has no answer to.
        own: mean of the harness's own scores in percent; None where they are not in the log.
    """

    log: SampleLog
    benchmark: Benchmark
    samples: Sequence[Sample]
    answers: dict[str, Prediction]
    scores: tuple[RuleScore, ...]
    missing: tuple[str, ...]
    own: float | None

    def under(self, rule: str | None) -> RuleScore:
        """The score under a rule, or the headline's; UserError with the rules there are."""
        for score in self.scores:
            if rule in (None, score.rule):
                return score
        raise UserError(f"{self.benchmark.name} has no rule {rule!r}; it has: {', '.join(s.rule for s in self.scores)}")


def rescore(
    log: SampleLog,
    *,
    benchmark: str | None = None,
    data: Path | None = None,
    questions: Path | None = None,
    options: Options = Options(),
) -> Rescored:
    """Score a log's answers again.

    Args:
        log: as read.
        benchmark: whose rules; by default what the log's own name for its task says.
        data: annotations or table with the right answers; by default those in the log.
        questions: question file beside the annotations, where there is one.
        options: how the data and the boxes are read.

    Raises:
        UserError: the log does not have the right answers, or is about other questions than the data.
    """
    name = benchmark or log.benchmark
    bench = benchmark_named(name) if name else _family(log.items)
    if data is None and log.harness == "fourfold":
        data = _own_data(log.path)
    if data is not None:
        if not name:
            raise UserError(f"which benchmark is {data}? Give --benchmark NAME")
        samples = bench.read(data, questions, options)
        keys = _positions(log.items, samples)
    else:
        samples = _from_log(bench, log)
        keys = [sample.id for sample in samples]
    known = {sample.id for sample in samples}
    answers: dict[str, Prediction] = {}
    for key, item in zip(keys, log.items, strict=True):
        if key not in known:
            raise UserError(f"{log.path} answers question {key}, which {data or 'its own list'} does not have")
        if key in answers:
            raise UserError(f"{log.path} answers question {key} more than once")
        if item.answer is not None:
            answers[key] = Prediction(key, split_thought(item.answer).answer)
    if not answers:
        raise UserError(f"{log.path} has no answers")
    scores = tuple(bench.score(samples, answers, rule, options) for rule in bench.rules)
    missing = tuple(sample.id for sample in samples if sample.id not in answers)
    own = [item.score for item in log.items if item.score is not None]
    mean = 100 * sum(own) / len(own) if len(own) == len(log.items) else None
    return Rescored(log, bench, samples, answers, scores, missing, mean)


def _own_data(folder: Path) -> Path:
    try:
        told = json.loads((folder / "result.json").read_text(encoding="utf-8"))["files"]["annotations"]
    except (FileNotFoundError, KeyError):
        raise UserError(f"{folder} does not name its annotations; give --data PATH") from None
    if not Path(told).exists():
        raise UserError(f"the annotations of {folder} are no longer at {told}; give --data PATH")
    return Path(told)


def _positions(items: Sequence[Item], samples: Sequence[Sample]) -> list[str]:
    """The samples' ids of the items; harnesses that number rows count them from 0 or from 1."""
    known = {sample.id for sample in samples}
    keys = [str(item.row.get("question_id", item.row.get("questionId", item.id))) for item in items]
    for named in (keys, [item.id for item in items]):
        if all(key in known for key in named) and len(set(named)) == len(named):
            return named
    if all(item.id.isdecimal() for item in items):
        numbers = [int(item.id) for item in items]
        first = 0 if min(numbers) == 0 else 1
        if max(numbers) - first < len(samples):
            return [samples[number - first].id for number in numbers]
    return keys


def _from_log(bench: Benchmark, log: SampleLog) -> list[Sample]:
    """Samples made of the log's own rows, by the reader of the benchmark."""
    if any(item.row.get("answer") in (None, "") and "answers" not in item.row for item in log.items):
        raise UserError(f"{log.path} does not have the right answers; give --data PATH with those of {bench.name}")

    def name_of(number: int, row: dict[str, Any]) -> tuple[str, None]:
        told = image_name(row) or row.get("image")
        return (told if isinstance(told, str) and told else f"question {log.items[number].id}"), None

    seen: set[str] = set()
    for item in log.items:
        if item.id in seen:
            raise UserError(f"{log.path} answers question {item.id} more than once")
        seen.add(item.id)
    try:
        records = official_records([dict(item.row) for item in log.items], bench.name, str(log.path), name_of)
    except UserError as error:
        raise UserError(f"{error}; --data PATH gives the questions of {bench.name}") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / log.path.name
        path = path.with_suffix(".json")
        path.write_text(json.dumps(records, default=str), encoding="utf-8")
        samples = bench.read(path, None, Options())
    if isinstance(bench, VQA) and any(len(sample.reference) < 3 for sample in samples):
        raise UserError(
            f"{log.path} does not have the annotators' answers; give --data PATH with those of {bench.name}"
        )
    if len(samples) != len(log.items):
        raise UserError(f"{log.path} has {len(log.items)} answers to {len(samples)} questions of {bench.name}")
    return samples


def _family(items: Sequence[Item]) -> Benchmark:
    """Rules for a task that is none of the benchmarks here, by the form of its right answers."""
    rows = [item.row for item in items]
    if all("choices" in row or "options" in row or "A" in row for row in rows):
        return QUESTIONS
    if all(str(row.get("answer", "")).strip().rstrip(".").lower() in ("yes", "no") for row in rows):
        return VERDICTS
    return ANSWERS
