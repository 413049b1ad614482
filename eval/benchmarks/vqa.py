"""OK-VQA, VQAv2, TextVQA and VizWiz: free answers against ten annotators."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fourfold.eval.benchmarks.benchmark import Answers, GradedBenchmark, Options, RuleScore, text_of, unique_ids
from fourfold.eval.data.official import read_content
from fourfold.eval.predictions import Prediction, normal_id, read_json
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.precision_recall import precision_recall
from fourfold.eval.scorers.ranking import average_precision
from fourfold.eval.scorers.vqa_accuracy import VQA_RULES, vizwiz_minigpt4
from fourfold.eval.statistics import bootstrap_weighted
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError


class VQA(GradedBenchmark):
    """A benchmark in the VQA format; a sample's `reference` is the tuple of its annotators' answers."""

    metric: ClassVar[str] = "vqa_accuracy"
    _accuracies: ClassVar[Mapping[str, Callable[[str, Sequence[str]], float]]] = VQA_RULES
    # The annotation field that names the kind of an answer, and what it is called in the result.
    _group_fields: ClassVar[tuple[str, ...]] = ("answer_type", "question_type")

    def __init__(self, name: str, rules: tuple[str, ...]) -> None:
        self.name = name  # type: ignore[misc]
        self.rules = rules  # type: ignore[misc]
        self.coco_images = name in ("okvqa", "vqav2")  # type: ignore[misc]

    @property
    def known_rules(self) -> tuple[str, ...]:
        """Those that are shown, and the other benchmarks' rules for ten annotators."""
        return tuple(dict.fromkeys((*self.rules, *VQA_RULES)))

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """Official annotations, TextVQA's or VizWiz's own files, or a map from question id to its answers."""
        content = read_content(annotations, self.name, f"{self.name} annotations", options.split)
        records = _records(content, annotations, self.name)
        asked = _questions(read_json(questions, f"{self.name} questions"), questions) if questions else {}
        samples = []
        for number, record in enumerate(records):
            where = f"{annotations.name}, question {number + 1}"
            identifier = normal_id(record.get("question_id", record.get("image")), where)
            question = asked.get(identifier, {})
            if asked and not question:
                raise UserError(f"{where}: id {identifier} is not among the questions of {questions}")
            image = record.get("image_id", record.get("image", question.get("image_id", question.get("image"))))
            groups = {
                field: str(record[field])
                for field in self._group_fields
                if record.get(field) not in (None, "none of the above")
            }
            samples.append(
                Sample(
                    identifier,
                    str(record.get("question") or question.get("question") or ""),
                    reference=_answers(record.get("answers"), options.gt_field, where),
                    cluster=str(image) if image is not None else f"question {identifier}",
                    groups=groups,
                )
            )
        return unique_ids(samples, annotations)

    def read_questions(self, questions: Path) -> list[Sample]:
        """The official questions of a test split, or VizWiz's list of image and question."""
        content = read_json(questions, f"{self.name} questions")
        if isinstance(content, list) and all(isinstance(r, Mapping) and "image" in r for r in content):
            content = [{"question_id": record["image"], "image_id": record["image"], **record} for record in content]
        records = _questions(content, questions)
        return unique_ids(
            (
                Sample(key, str(record.get("question", "")), reference=(), cluster=str(record.get("image_id", key)))
                for key, record in records.items()
            ),
            questions,
        )

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        said = text_of(prediction)
        return self._accuracies[rule](said, sample.reference), bool(said.strip())

    def facts(self, samples: Sequence[Sample], options: Options) -> dict[str, Any]:
        """How many annotators a question has, whether images are known for clustering, and which field was read."""
        annotators = sorted({len(sample.reference) for sample in samples})
        clustered = (
            "question (the files name no images)" if samples[0].cluster == f"question {samples[0].id}" else "image"
        )
        return {"annotators": annotators, "clustered_by": clustered, "gt_field": options.gt_field}


class VizWiz(VQA):
    """VizWiz: the accuracies, and how well *unanswerable* questions are told apart."""

    # MiniGPT-v2 scored VizWiz by a rule of its own.
    _accuracies: ClassVar = {**VQA_RULES, "minigpt4": vizwiz_minigpt4}

    def __init__(self) -> None:
        super().__init__("vizwiz", ("vizwiz", "evalai_m4c", "minigpt4"))

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Accuracy, and average precision and F1 with *unanswerable* as the positive class.

        The score of an answer is 1 - `answerable` where the prediction has that field, else whether it says
        "unanswerable".
        """
        result = super().score(samples, answers, rule, options)
        truths = [sample.reference is not None and "unanswerable" in sample.groups.values() for sample in samples]
        if not any(truths):
            return result
        scores = np.array([_unanswerable(answers.get(sample.id)) for sample in samples])
        positive, said = np.array(truths), scores >= 0.5
        images = [sample.cluster for sample in samples]
        right = (positive & said).astype(float)
        found = precision_recall([right, said.astype(float), right, positive.astype(float)], images)
        precision = bootstrap_weighted(lambda weights: 100 * average_precision(positive, scores, weights), images)
        more = {"answerability/average_precision": precision, "answerability/f1": found["f1"]}
        return replace(result, sub_scores={**result.sub_scores, **more})

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """VizWiz's results name the image."""
        images = {sample.id: sample.cluster for sample in samples}
        return [{"image": images[one.id], "answer": text_of(one)} for one in predictions]

    def rekey(self, predictions: Sequence[Prediction], samples: Sequence[Sample]) -> list[Prediction]:
        """VizWiz's own results name the image, one question each."""
        ids = {sample.id for sample in samples}
        by_image = {sample.cluster: sample.id for sample in samples}
        return [one if one.id in ids else replace(one, id=by_image.get(one.id, one.id)) for one in predictions]


def _unanswerable(prediction: Prediction | None) -> float:
    if prediction is None:
        return 0.0
    confidence = prediction.fields.get("answerable")
    if isinstance(confidence, (int, float)) and not isinstance(confidence, bool):
        return 1.0 - float(confidence)
    return float(normalise.vqa(text_of(prediction)) == "unanswerable")


def _records(content: Any, path: Path, name: str) -> list[Mapping[str, Any]]:
    """Records with `question_id` (or `image`) and `answers`, from any of the shapes that are around."""
    if isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
        records = content["annotations"]
    elif isinstance(content, Mapping) and isinstance(content.get("data"), list):
        records = content["data"]
    elif isinstance(content, list):
        records = content
    elif isinstance(content, Mapping) and content and all(isinstance(value, list) for value in content.values()):
        records = [{"question_id": key, "answers": value} for key, value in content.items()]
    else:
        records = []
    if not records or not all(
        isinstance(record, Mapping) and "answers" in record and ("question_id" in record or "image" in record)
        for record in records
    ):
        found = "a list of other records"
        if isinstance(content, Mapping):
            found = f"an object with {', '.join(list(map(str, content))[:4])}"
        raise UserError(
            f"{path} is no annotation file of {name}: expected the official VQA annotations (ten answers a question) "
            f"or an object from question id to answers, found {found}"
        )
    return records


def _questions(content: Any, path: Path | None) -> dict[str, Mapping[str, Any]]:
    records = content.get("questions") if isinstance(content, Mapping) else content
    if not isinstance(records, list) or not all(isinstance(r, Mapping) and "question_id" in r for r in records):
        raise UserError(f"{path} is no VQA question file: expected an object with a list of questions")
    return {normal_id(record["question_id"], str(path)): record for record in records}


def _answers(answers: Any, gt_field: str, where: str) -> tuple[str, ...]:
    if not isinstance(answers, list) or not answers:
        raise UserError(f"{where}: no answers to compare with (a test split has none: write a submission file instead)")
    texts = []
    for answer in answers:
        text = answer.get(gt_field) if isinstance(answer, Mapping) else answer
        if not isinstance(text, str):
            raise UserError(f"{where}: an answer has no text in the field {gt_field!r}")
        texts.append(text)
    return tuple(texts)
