"""ChartQA and DocVQA: short answers about charts and scanned pages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from fourfold.eval.benchmarks.benchmark import GradedBenchmark, Options, text_of, unique_ids
from fourfold.eval.benchmarks.choices import question_records
from fourfold.eval.data.official import as_list, read_content
from fourfold.eval.predictions import Prediction, normal_id
from fourfold.eval.scorers.short_answer import anls, relaxed_match
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError


class ShortAnswers(GradedBenchmark):
    """Questions with one or more right answers; a sample's `reference` is the tuple of them.

    Rules: `exact` wants one of them but for case and spaces, `relaxed` is ChartQA's and `anls` DocVQA's.
    """

    name: ClassVar[str] = "short answers"
    rules: ClassVar[tuple[str, ...]] = ("exact", "relaxed", "anls")

    prompt_field: ClassVar[str] = "question"
    max_tokens: ClassVar[int] = 32
    _groups: ClassVar[Mapping[str, str]] = {}  # column -> what its values are called in the result
    _answers: ClassVar[tuple[str, ...]] = ("answers", "answer")

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """Rows of a table, or records of the official JSON."""
        content = read_content(annotations, self.name, f"{self.name} questions", options.split)
        records = question_records(content, annotations, self.name, ("question", "query"), self._answers)
        return unique_ids((self._sample(one, n, annotations) for n, one in enumerate(records)), annotations)

    def _sample(self, record: Mapping[str, Any], number: int, path: Path) -> Sample:
        where = f"{path.name}, row {number + 1}"
        question = record.get("question", record.get("query"))
        found = next((record[name] for name in self._answers if record.get(name) not in (None, "", [])), None)
        if question is None or found is None:
            raise UserError(
                f"{where} is none of {self.name}: it needs a question and {self._answers[0]} "
                f"(a test split has no answers); its fields are {', '.join(record)}"
            )
        identifier = next(
            (record[name] for name in ("questionId", "question_id", "index", "id") if name in record), None
        )
        key = normal_id(identifier if identifier is not None else number, where)
        groups: dict[str, str] = {}
        for column, name in self._groups.items():
            for value in as_list(record.get(column, [])):
                groups[name if name not in groups else f"{name} {len(groups) + 1}"] = str(value)
        image = str(record.get("image") or record.get("imgname") or f"question {key}")
        answers = tuple(str(one) for one in as_list(found))
        return Sample(key, str(question), reference=answers, cluster=image, groups=groups)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        said = text_of(prediction)
        if rule == "relaxed":
            score = float(any(relaxed_match(said, reference) for reference in sample.reference))
        else:
            score = anls(said, sample.reference, threshold=0.5 if rule == "anls" else 1.0)
        return score, bool(said.strip())

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """DocVQA's own names."""
        return [{"questionId": one.id, "answer": text_of(one)} for one in predictions]


class ChartQA(ShortAnswers):
    """ChartQA by relaxed accuracy: 5 % off is right for numbers, words must be the same.

    Rules: `relaxed` takes the answer as it is, as lmms-eval does; `vlmevalkit` strips it first; `exact` allows nothing.
    """

    name: ClassVar[str] = "chartqa"
    metric: ClassVar[str] = "relaxed_accuracy"
    rules: ClassVar[tuple[str, ...]] = ("relaxed", "vlmevalkit", "exact")
    _groups: ClassVar[Mapping[str, str]] = {"type": "split", "split": "split"}
    _answers: ClassVar[tuple[str, ...]] = ("answer", "label", "answers")

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        if rule == "vlmevalkit":
            stripped = replace(prediction, answer=text_of(prediction).strip())
            return super().grade(sample, stripped, "relaxed")
        return super().grade(sample, prediction, rule)


class DocVQA(ShortAnswers):
    """DocVQA by ANLS; `exact` counts only answers that are a reference but for case and spaces."""

    name: ClassVar[str] = "docvqa"
    metric: ClassVar[str] = "anls"
    rules: ClassVar[tuple[str, ...]] = ("anls", "exact")
    _groups: ClassVar[Mapping[str, str]] = {"question_types": "type"}
