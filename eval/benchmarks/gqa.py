"""GQA: exact match, by question type, with the official distribution and consistency where the files allow them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from fourfold.eval.benchmarks.benchmark import (
    Answers,
    GradedBenchmark,
    Options,
    RuleScore,
    mean_by_group,
    text_of,
    unique_ids,
)
from fourfold.eval.data.official import read_content
from fourfold.eval.predictions import Prediction
from fourfold.eval.scorers import normalise
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError


class GQA(GradedBenchmark):
    """GQA; a sample's `reference` is its official question record.

    Rules: `official` compares to the letter, as the official script does; `cleaned` first lower-cases and drops a
    final full stop, as callers of that script do; `minigpt4` lower-cases, drops `<unk>` and strips.
    """

    name: ClassVar[str] = "gqa"
    metric: ClassVar[str] = "exact_match"
    rules: ClassVar[tuple[str, ...]] = ("official", "cleaned", "minigpt4")

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """The official questions file with answers: an object from question id to its record."""
        content = read_content(annotations, self.name, "GQA questions", options.split)
        fields = {"question_id", "answer", "imageId"}
        if isinstance(content, list) and all(isinstance(row, Mapping) and fields <= set(row) for row in content):
            return unique_ids((_sample(str(row["question_id"]), row) for row in content), annotations)
        if not isinstance(content, Mapping) or not all(
            isinstance(record, Mapping) and "answer" in record and "imageId" in record for record in content.values()
        ):
            raise UserError(
                f"{annotations} is no GQA questions file: expected an object from question id to a record "
                "with question, answer and imageId"
            )
        return unique_ids((_sample(str(key), record) for key, record in content.items()), annotations)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        given = _CLEAN[rule](text_of(prediction))
        return float(given == sample.reference["answer"]), bool(given.strip())

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Accuracy over the balanced questions, by type; distribution (chi-square, lower is better); consistency."""
        result = super().score(samples, answers, rule, options)
        balanced = [sample for sample in samples if sample.reference.get("isBalanced", True)]
        if not balanced:
            raise UserError("none of these GQA questions is balanced; the official score is over the balanced ones")
        overall, groups = mean_by_group(balanced, result.by_sample)
        sub_scores: dict[str, Estimate | float] = dict(groups)
        notes = []
        distribution = _distribution(balanced, {s.id: _CLEAN[rule](text_of(answers.get(s.id))) for s in balanced})
        if distribution is None:
            notes.append("no distribution: the questions have no groups")
        else:
            sub_scores["distribution (chi-square, lower is better)"] = distribution
        consistency = _consistency(balanced, samples, result.by_sample)
        if consistency is None:
            notes.append("no consistency: not all entailed questions are in the file")
        else:
            sub_scores["consistency"] = consistency
        notes.append("no validity or plausibility: they need the official choices file")
        by_sample = {sample.id: result.by_sample[sample.id] for sample in balanced}
        return replace(result, headline=overall, by_sample=by_sample, sub_scores=sub_scores, notes=tuple(notes))

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """GQA's own results; its ids are text, and may begin with a zero."""
        return [{"questionId": one.id, "prediction": text_of(one)} for one in predictions]

    def facts(self, samples: Sequence[Sample], options: Options) -> dict[str, Any]:
        """How many of the questions count."""
        return {"balanced": sum(1 for sample in samples if sample.reference.get("isBalanced", True))}


def _cleaned(answer: str) -> str:
    return answer.strip().lower().removesuffix(".").strip()


_CLEAN = {"official": lambda answer: answer, "cleaned": _cleaned, "minigpt4": normalise.minigpt4}


def _sample(identifier: str, record: Mapping[str, Any]) -> Sample:
    types = record.get("types") or {}
    groups = {kind: types[kind] for kind in ("structural", "semantic") if types.get(kind)}
    if "structural" in groups:
        groups["form"] = "open" if groups["structural"] == "query" else "binary"
    image, question = str(record["imageId"]), str(record.get("question", ""))
    return Sample(identifier, question, reference=record, cluster=image, groups=groups)


def _distribution(samples: Sequence[Sample], given: Mapping[str, str]) -> float | None:
    """Chi-square of gold against predicted answers a global group, weighted by its size (official formula)."""
    gold: dict[str, Counter[str]] = defaultdict(Counter)
    predicted: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        group = (sample.reference.get("groups") or {}).get("global")
        if group is not None:
            gold[group][sample.reference["answer"]] += 1
            predicted[group][given[sample.id]] += 1
    total = sum(sum(counts.values()) for counts in gold.values())
    if not total:
        return None
    weighted = 0.0
    for group, counts in gold.items():
        chi = sum((predicted[group][answer] - count) ** 2 / count for answer, count in counts.items())
        weighted += chi * sum(counts.values())
    return weighted / total


def _consistency(balanced: Sequence[Sample], samples: Sequence[Sample], values: Mapping[str, float]) -> Estimate | None:
    """Of the questions that rightly answered ones entail, the share answered rightly too (official formula).

    None where an entailed question is missing from the files: a partial consistency is another number.
    """
    known = {sample.id for sample in samples}
    entailed = {
        sample.id: [other for other in sample.reference.get("entailed") or () if other != sample.id]
        for sample in balanced
    }
    if not any(entailed.values()) or any(other not in known for others in entailed.values() for other in others):
        return None
    right = [sample for sample in balanced if values[sample.id] and entailed[sample.id]]
    if not right:
        return None
    shares = [sum(values[other] for other in entailed[sample.id]) / len(entailed[sample.id]) for sample in right]
    return clustered_mean(shares, [sample.cluster for sample in right])
