"""Scoring a file of predictions against a benchmark's files, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.eval.benchmarks import Benchmark, Options, RuleScore, benchmark_named
from fourfold.eval.predictions import Prediction, join, read_predictions
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class Result:
    """A benchmark's outcome: every rule asked for, the headline's first."""

    benchmark: str
    scores: tuple[RuleScore, ...]
    n: int
    missing: tuple[str, ...]
    refusals: int
    facts: dict[str, Any]

    @property
    def headline(self) -> RuleScore:
        """The rule that the headline goes by."""
        return self.scores[0]

    def to_json(self) -> dict[str, Any]:
        """The headline's figures at the top, every rule's under `rules`."""
        headline = self.headline.to_json()
        return {
            "benchmark": self.benchmark,
            **headline,
            "n": self.n,
            "missing": len(self.missing),
            "refusals": self.refusals,
            "confidence": 0.95,
            "files": self.facts,
            "rules": {score.rule: score.to_json() for score in self.scores},
        }


def score_files(
    benchmark: str,
    predictions: Path,
    annotations: Path,
    *,
    questions: Path | None = None,
    rule: str | None = None,
    allow_missing: bool = False,
    options: Options = Options(),
) -> Result:
    """Read the files, join them by id, score under every rule (or the one named).

    Raises:
        UserError: for files that cannot be read, are another benchmark's, or do not match each other.
    """
    bench = benchmark_named(benchmark)
    if rule is not None and rule not in bench.known_rules:
        raise UserError(f"{bench.name} has no rule {rule!r}; it has: {', '.join(bench.known_rules)}")
    samples = bench.read(annotations, questions, options)
    facts = {"predictions": str(predictions), "annotations": str(annotations)}
    if questions:
        facts["questions"] = str(questions)
    given = read_predictions(predictions)
    return score_predictions(
        bench, samples, given, rule=rule, allow_missing=allow_missing, options=options, facts=facts
    )


def _refuse_ambiguous(predictions: Sequence[Prediction], samples: Sequence[Sample]) -> None:
    """`answer` is the model's where `text` beside it is the question, as in POPE's files; else nobody can tell.

    Raises:
        UserError: a record has both, and `text` is not the question.
    """
    asked = {sample.id: sample.prompt for sample in samples}
    for one in predictions:
        if one.fields.get("answer") != one.answer or not isinstance(text := one.fields.get("text"), str):
            continue
        question = asked.get(one.id, "")
        if text != one.answer and not text.rstrip().endswith("?") and not (question and question in text):
            raise UserError(
                f"the prediction of {one.id} holds both answer {one.answer!r} and text {text[:60]!r}; which is the "
                "model's? Call it prediction, or leave the other out"
            )


def score_predictions(
    bench: Benchmark,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    *,
    rule: str | None = None,
    allow_missing: bool,
    options: Options,
    facts: dict[str, Any],
) -> Result:
    """Join and score what was read already."""
    given = bench.rekey(predictions, samples)
    _refuse_ambiguous(given, samples)
    joined = join(given, [sample.id for sample in samples], allow_missing=allow_missing)
    if not joined.by_id:
        raise UserError("not one question has a prediction; there is nothing to score")
    scores = tuple(bench.score(samples, joined.by_id, name, options) for name in ([rule] if rule else bench.rules))
    return Result(
        bench.name,
        scores,
        len(samples),
        joined.missing,
        sum(prediction.refused for prediction in joined.by_id.values()),
        facts | bench.facts(samples, options),
    )
