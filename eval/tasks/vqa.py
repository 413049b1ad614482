"""OK-VQA, VQAv2, TextVQA and VizWiz: free answers against ten annotators."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fourfold.eval.predictions import Prediction, normal_id, read_json
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.ranking import average_precision
from fourfold.eval.scorers.vqa_accuracy import VQA_RULES, vizwiz_minigpt4
from fourfold.eval.statistics import bootstrap, bootstrap_weighted
from fourfold.eval.tasks.benchmark import Benchmark, Item, Options, RuleScore, mean_by_group, text_of, unique_ids
from fourfold.prompts.errors import UserError


class VQA(Benchmark):
    """A benchmark in the VQA format; an item's `reference` is the tuple of its annotators' answers."""

    # The annotation field that names the kind of an answer, and what it is called in the result.
    _group_fields: ClassVar[tuple[str, ...]] = ("answer_type", "question_type")

    def __init__(self, name: str, rules: tuple[str, ...]) -> None:
        self.name = name  # type: ignore[misc]
        self.rules = rules  # type: ignore[misc]

    @property
    def known_rules(self) -> tuple[str, ...]:
        """Those that are shown, and the other benchmarks' rules for ten annotators."""
        return tuple(dict.fromkeys((*self.rules, *VQA_RULES)))

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """Official annotations, TextVQA's or VizWiz's own files, or a map from question id to its answers."""
        records = _records(read_json(annotations, f"{self.name} annotations"), annotations, self.name)
        asked = _questions(read_json(questions, f"{self.name} questions"), questions) if questions else {}
        items = []
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
            items.append(
                Item(
                    identifier,
                    str(image) if image is not None else f"question {identifier}",
                    str(record.get("question") or question.get("question") or ""),
                    _answers(record.get("answers"), options.gt_field, where),
                    groups,
                )
            )
        return unique_ids(items, annotations)

    def read_questions(self, questions: Path) -> list[Item]:
        """The official questions of a test split, or VizWiz's list of image and question."""
        content = read_json(questions, f"{self.name} questions")
        if isinstance(content, list) and all(isinstance(r, Mapping) and "image" in r for r in content):
            content = [{"question_id": record["image"], "image_id": record["image"], **record} for record in content]
        records = _questions(content, questions)
        return unique_ids(
            (
                Item(identifier, str(record.get("image_id", identifier)), str(record.get("question", "")), ())
                for identifier, record in records.items()
            ),
            questions,
        )

    def rule_function(self, rule: str) -> Callable[[str, Sequence[str]], float]:
        """The accuracy of one answer under `rule`."""
        return VQA_RULES[rule]

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Accuracy in percent, overall and by answer type."""
        accuracy = self.rule_function(rule)
        values = {
            item.id: accuracy(text_of(answers[item.id]), item.reference) if item.id in answers else 0.0
            for item in items
        }
        overall, groups = mean_by_group(items, values)
        empty = sum(1 for item in items if item.id in answers and not text_of(answers[item.id]).strip())
        return RuleScore(rule, "vqa_accuracy", overall, values, groups, empty)

    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The question."""
        return {"question": item.question}

    def facts(self, items: Sequence[Item]) -> dict[str, Any]:
        """How many annotators a question has, and whether images are known for clustering."""
        annotators = sorted({len(item.reference) for item in items})
        clustered = "question (the files name no images)" if items[0].image == f"question {items[0].id}" else "image"
        return {"annotators": annotators, "clustered_by": clustered}


class VizWiz(VQA):
    """VizWiz: the accuracies, and how well *unanswerable* questions are told apart."""

    def __init__(self) -> None:
        super().__init__("vizwiz", ("vizwiz", "evalai_m4c", "minigpt4"))

    def rule_function(self, rule: str) -> Callable[[str, Sequence[str]], float]:
        """As for VQA, but MiniGPT-v2 scored VizWiz by a rule of its own."""
        return vizwiz_minigpt4 if rule == "minigpt4" else VQA_RULES[rule]

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Accuracy, and average precision and F1 with *unanswerable* as the positive class.

        The score of an answer is 1 - `answerable` where the prediction has that field, else whether it says
        "unanswerable".
        """
        result = super().score(items, answers, rule, options)
        truths = [item.reference is not None and "unanswerable" in item.groups.values() for item in items]
        if not any(truths):
            return result
        scores = np.array([_unanswerable(answers.get(item.id)) for item in items])
        positive, said = np.array(truths), scores >= 0.5
        images = [item.image for item in items]
        columns = [
            (positive & said).astype(float),
            said.astype(float),
            positive.astype(float),
        ]
        sub_scores = {
            **result.sub_scores,
            "answerability/average_precision": bootstrap_weighted(
                lambda weights: 100 * average_precision(positive, scores, weights), images
            ),
            "answerability/f1": bootstrap(columns, images, _f1),
        }
        return RuleScore(rule, result.metric, result.headline, result.by_item, sub_scores, result.parse_failures)

    def submission(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """VizWiz's results name the image."""
        images = {item.id: item.image for item in items}
        return [{"image": images[one.id], "answer": text_of(one)} for one in predictions]

    def rekey(self, predictions: Sequence[Prediction], items: Sequence[Item]) -> list[Prediction]:
        """VizWiz's own results name the image, one question each."""
        ids = {item.id for item in items}
        by_image = {item.image: item.id for item in items}
        return [
            prediction
            if prediction.id in ids or prediction.id not in by_image
            else Prediction(by_image[prediction.id], prediction.answer, fields=prediction.fields)
            for prediction in predictions
        ]


def _f1(sums: np.ndarray) -> np.ndarray:
    under = sums[:, 1] + sums[:, 2]
    return 100 * np.divide(2 * sums[:, 0], under, out=np.zeros_like(under), where=under > 0)


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
    good = bool(records) and all(
        isinstance(record, Mapping) and "answers" in record and ("question_id" in record or "image" in record)
        for record in records
    )
    if not good:
        kind = (
            f"an object with {', '.join(list(map(str, content))[:4])}"
            if isinstance(content, Mapping)
            else "a list of other records"
        )
        raise UserError(
            f"{path} is no annotation file of {name}: expected the official VQA annotations (ten answers a question) "
            f"or an object from question id to answers, found {kind}"
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
