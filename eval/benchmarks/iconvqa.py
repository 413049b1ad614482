"""IconVQA (IconQA, choosing a text): the right one among candidates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fourfold.eval.benchmarks.benchmark import GradedBenchmark, Options, text_of, unique_ids
from fourfold.eval.data.official import read_content
from fourfold.eval.predictions import Prediction, normal_id
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.ranking import best_candidate
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError


class IconVQA(GradedBenchmark):
    """IconVQA; a sample's `reference` is the index of the right candidate.

    Rules: `official` and `minigpt4` both take the candidate with the highest mean log-likelihood where predictions
    have `scores`, one a candidate. Where they have words instead, `official` wants the candidate's words, whatever
    their case, and `minigpt4`, which only ever ranks, counts them as unreadable.
    """

    name: ClassVar[str] = "iconvqa"
    rules: ClassVar[tuple[str, ...]] = ("official", "minigpt4")

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """Records with image_id, question, choices and answer (an index from 0), as a list or by id."""
        content = read_content(annotations, self.name, "IconVQA questions", options.split)
        if isinstance(content, Mapping):
            content = [{"question_id": key, **value} for key, value in content.items() if isinstance(value, Mapping)]
        needed = {"question", "choices", "answer"}
        if (
            not isinstance(content, list)
            or not content
            or not all(isinstance(r, Mapping) and needed <= set(r) for r in content)
        ):
            raise UserError(
                f"{annotations} is no question file of IconVQA: expected records with {', '.join(sorted(needed))}"
            )
        samples = [_sample(record, f"{annotations.name}, record {number}") for number, record in enumerate(content)]
        return unique_ids(samples, annotations)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        chosen = _choice(sample, prediction, rule)
        return float(chosen == sample.reference), chosen is not None

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """The scores beside the words."""
        return [
            {"id": one.id, "answer": text_of(one)} | ({"scores": list(one.scores)} if one.scores else {})
            for one in predictions
        ]


def _choice(sample: Sample, prediction: Prediction, rule: str) -> int | None:
    if prediction.scores is not None:
        if len(prediction.scores) != len(sample.candidates):
            raise UserError(
                f"question {sample.id} has {len(sample.candidates)} candidates but {len(prediction.scores)} scores"
            )
        return best_candidate(prediction.scores)
    if rule == "minigpt4":
        return None
    said = normalise.minigpt4(text_of(prediction)).removesuffix(".")
    candidates = [normalise.minigpt4(candidate) for candidate in sample.candidates]
    return candidates.index(said) if said in candidates else None


def _sample(record: Mapping[str, Any], where: str) -> Sample:
    choices, answer = record["choices"], record["answer"]
    identifier = normal_id(record.get("question_id", record.get("id", record.get("image_id"))), where)
    if (
        not isinstance(choices, list)
        or isinstance(answer, bool)
        or not isinstance(answer, int)
        or not 0 <= answer < len(choices)
    ):
        raise UserError(f"{where}: answer must be the index of one of the choices, got {answer!r} of {len(choices)}")
    candidates = tuple(str(choice) for choice in choices)
    image = str(record.get("image_id", record.get("image", identifier)))
    return Sample(
        identifier,
        str(record["question"]),
        reference=answer,
        candidates=candidates,
        cluster=image,
        groups={"candidates": str(len(candidates))},
    )
