"""POPE, VSR and HatefulMemes: two answers are possible."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from fourfold.eval.predictions import Prediction, normal_id, read_json
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.ranking import auroc
from fourfold.eval.scorers.yes_no import first_verdict, pope_verdict, yes_no_figures
from fourfold.eval.statistics import Estimate, bootstrap_weighted
from fourfold.eval.tasks.benchmark import Benchmark, Item, Options, RuleScore, mean_by_group, text_of, unique_ids
from fourfold.prompts.errors import UserError


def _rows(path: Path, name: str, fields: set[str]) -> list[Mapping[str, Any]]:
    content = read_json(path, f"{name} labels")
    rows = [content] if isinstance(content, Mapping) else content
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and fields <= set(row) for row in rows):
        raise UserError(f"{path} is no label file of {name}: expected a record a line with {', '.join(sorted(fields))}")
    return rows


class POPE(Benchmark):
    """POPE: is the object there? An item's `reference` is whether it is.

    Rules: `pope` reads answers as POPE's script does, where anything without "no" or "not" in its first sentence means
    yes; `strict` takes the first whole word yes or no, and an answer with neither is wrong. Rule `minigpt4` wants
    exactly "yes" or "no".
    """

    name: ClassVar[str] = "pope"
    rules: ClassVar[tuple[str, ...]] = ("pope", "strict", "minigpt4")

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """POPE's label lines: question_id, image, text, label."""
        items = []
        for number, row in enumerate(_rows(annotations, "POPE", {"question_id", "image", "text", "label"}), start=1):
            where = f"{annotations.name}, line {number}"
            if row["label"] not in ("yes", "no"):
                raise UserError(f"{where}: the label must be yes or no, not {row['label']!r}")
            identifier = normal_id(row["question_id"], where)
            items.append(Item(identifier, str(row["image"]), str(row["text"]), row["label"] == "yes"))
        return unique_ids(items, annotations)

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Accuracy, precision, recall, F1 and the yes-ratio of the predictions."""
        read = _READ_POPE[rule]
        verdicts = [read(text_of(answers[item.id])) if item.id in answers else None for item in items]
        truths = [item.reference for item in items]
        figures = yes_no_figures(truths, verdicts, [item.image for item in items])
        values = {item.id: float(v is t) for item, v, t in zip(items, verdicts, truths, strict=True)}
        unread = [item for item in items if item.id in answers and first_verdict(text_of(answers[item.id])) is None]
        note = (
            "an answer with neither yes nor no counts as yes, as in POPE's script"
            if rule == "pope"
            else "an answer with neither yes nor no is wrong: a missed yes, or no right no"
        )
        sub_scores = {name: figure for name, figure in figures.items() if name != "accuracy"}
        return RuleScore(rule, "accuracy", figures["accuracy"], values, sub_scores, len(unread), (note,))

    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The question."""
        return {"question": item.question}

    def rekey(self, predictions: Sequence[Prediction], items: Sequence[Item]) -> list[Prediction]:
        """Ids stay; an image or question named by a prediction must be the label's: all splits share their ids."""
        by_id = {item.id: item for item in items}
        for prediction in predictions:
            item = by_id.get(prediction.id)
            image, question = prediction.fields.get("image"), prediction.fields.get("question")
            if item and isinstance(image, str) and Path(image).name != Path(item.image).name:
                raise UserError(
                    f"question {item.id} is about {item.image}, but its prediction names {image}: other answers?"
                )
            if item and isinstance(question, str) and item.question not in question and question not in item.question:
                raise UserError(
                    f"question {item.id} asks {item.question!r}, but its prediction was to {question[:80]!r}: "
                    "the answers of another split?"
                )
        return list(predictions)


class VSR(Benchmark):
    """VSR: is the statement true? An item's `reference` is whether it is, its id the row, counted from 0.

    Rules: `official` takes the first whole word true/false (or yes/no); `minigpt4` wants exactly "true" or "false".
    """

    name: ClassVar[str] = "vsr"
    rules: ClassVar[tuple[str, ...]] = ("official", "minigpt4")

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """The label lines of a split: image, caption, label (0 or 1), relation."""
        items = []
        for number, row in enumerate(_rows(annotations, "VSR", {"image", "caption", "label"})):
            where = f"{annotations.name}, line {number + 1}"
            if row["label"] not in (0, 1):
                raise UserError(f"{where}: the label must be 0 or 1, not {row['label']!r}")
            identifier = normal_id(row.get("question_id", row.get("id", number)), where)
            groups = {"relation": str(row["relation"])} if row.get("relation") else {}
            items.append(Item(identifier, str(row["image"]), str(row["caption"]), bool(row["label"]), groups))
        return unique_ids(items, annotations)

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Accuracy, overall and by relation."""
        verdicts = {item.id: _truth(text_of(answers.get(item.id)), rule) for item in items}
        values = {item.id: float(item.id in answers and verdicts[item.id] is item.reference) for item in items}
        overall, groups = mean_by_group(items, values)
        unread = sum(1 for item in items if item.id in answers and verdicts[item.id] is None)
        return RuleScore(rule, "accuracy", overall, values, groups, unread)

    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The statement."""
        return {"caption": item.question}

    def rekey(self, predictions: Sequence[Prediction], items: Sequence[Item]) -> list[Prediction]:
        """Results may name image and caption instead of the row."""
        rows = {(item.image, item.question): item.id for item in items}
        return [
            replace(prediction, id=rows.get((prediction.id, str(prediction.fields.get("caption"))), prediction.id))
            for prediction in predictions
        ]


class HatefulMemes(Benchmark):
    """HatefulMemes; an item's `reference` is whether the meme is hateful.

    Rules: `official` reads the first whole word yes or no, and adds the area under the ROC curve from P(yes) where
    predictions have a `score`; `minigpt4` wants exactly "yes" or "no".
    """

    name: ClassVar[str] = "hatefulmemes"
    rules: ClassVar[tuple[str, ...]] = ("official", "minigpt4")

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """The label lines of a split: id, img, label (0 or 1), text."""
        items = []
        for number, row in enumerate(_rows(annotations, "HatefulMemes", {"id", "img", "label", "text"}), start=1):
            where = f"{annotations.name}, line {number}"
            if row["label"] not in (0, 1):
                raise UserError(f"{where}: the label must be 0 or 1, not {row['label']!r}")
            identifier, image = normal_id(row["id"], where), str(row["img"])
            items.append(Item(identifier, image, str(row["text"]), bool(row["label"]), candidates=("yes", "no")))
        return unique_ids(items, annotations)

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Accuracy from the words (or from P(yes) >= 0.5 where there are none), and AUROC from P(yes)."""
        scored = [answers[item.id].score for item in items if item.id in answers]
        read = first_verdict if rule == "official" else _exact
        verdicts: dict[str, bool | None] = {}
        for item in items:
            prediction = answers.get(item.id)
            if prediction is None:
                verdicts[item.id] = None
            elif prediction.answer is None and prediction.score is not None:
                verdicts[item.id] = prediction.score >= 0.5
            else:
                verdicts[item.id] = read(text_of(prediction))
        values = {item.id: float(verdicts[item.id] is item.reference) for item in items}
        overall, groups = mean_by_group(items, values)
        sub_scores: dict[str, Estimate | float] = dict(groups)
        notes: tuple[str, ...] = ()
        if len(scored) == len(items) and all(score is not None for score in scored):
            truths, scores = (
                [item.reference for item in items],
                [float(answers[item.id].score or 0.0) for item in items],
            )
            sub_scores["auroc"] = bootstrap_weighted(
                lambda weights: 100 * auroc(truths, scores, weights), [item.image for item in items]
            )
        else:
            notes = ("no AUROC: it needs P(yes) in the field `score` of every prediction",)
        unread = sum(1 for item in items if item.id in answers and verdicts[item.id] is None)
        return RuleScore(rule, "accuracy", overall, values, sub_scores, unread, notes)

    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The meme's text."""
        return {"text": item.question}

    def submission(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """The official proba and label beside the words."""
        return [
            {"id": one.id, "proba": one.score, "label": int(first_verdict(text_of(one)) is True), "answer": one.answer}
            for one in predictions
        ]


def _exact(answer: str) -> bool | None:
    return {"yes": True, "no": False}.get(normalise.minigpt4(answer))


def _truth(answer: str, rule: str) -> bool | None:
    if rule == "minigpt4":
        return {"true": True, "false": False}.get(normalise.minigpt4(answer))
    verdict = first_verdict(answer, "true", "false")
    return first_verdict(answer) if verdict is None else verdict


_READ_POPE: dict[str, Callable[[str], bool | None]] = {
    "pope": pope_verdict,
    "strict": first_verdict,
    "minigpt4": _exact,
}
