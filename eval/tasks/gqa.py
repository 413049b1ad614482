"""GQA: exact match, by question type, with the official distribution and consistency where the files allow them."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fourfold.eval.predictions import Prediction, read_json
from fourfold.eval.scorers import normalise
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.eval.tasks.benchmark import Benchmark, Item, Options, RuleScore, mean_by_group, text_of, unique_ids
from fourfold.prompts.errors import UserError


class GQA(Benchmark):
    """GQA; an item's `reference` is its official question record.

    Rules: `official` compares to the letter, as the official script does; `cleaned` first lower-cases and drops a
    final full stop, as callers of that script do; `minigpt4` lower-cases, drops `<unk>` and strips.
    """

    name: ClassVar[str] = "gqa"
    rules: ClassVar[tuple[str, ...]] = ("official", "cleaned", "minigpt4")

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Item]:
        """The official questions file with answers: an object from question id to its record."""
        content = read_json(annotations, "GQA questions")
        if not isinstance(content, Mapping) or not all(
            isinstance(record, Mapping) and "answer" in record and "imageId" in record for record in content.values()
        ):
            raise UserError(
                f"{annotations} is no GQA questions file: expected an object from question id to a record "
                "with question, answer and imageId"
            )
        return unique_ids((_item(str(key), record) for key, record in content.items()), annotations)

    def score(self, items: Sequence[Item], answers: Mapping[str, Prediction], rule: str, options: Options) -> RuleScore:
        """Accuracy over the balanced questions, by type; distribution (chi-square, lower is better); consistency."""
        clean = _CLEAN[rule]
        given = {item.id: clean(text_of(answers.get(item.id))) for item in items}
        values = {item.id: float(item.id in answers and given[item.id] == item.reference["answer"]) for item in items}
        balanced = [item for item in items if item.reference.get("isBalanced", True)]
        if not balanced:
            raise UserError("none of these GQA questions is balanced; the official score is over the balanced ones")
        overall, groups = mean_by_group(balanced, values)
        sub_scores: dict[str, Estimate | float] = dict(groups)
        notes = []
        distribution = _distribution(balanced, given)
        if distribution is None:
            notes.append("no distribution: the questions have no groups")
        else:
            sub_scores["distribution (chi-square, lower is better)"] = distribution
        consistency = _consistency(balanced, items, values)
        if consistency is None:
            notes.append("no consistency: not all entailed questions are in the file")
        else:
            sub_scores["consistency"] = consistency
        notes.append("no validity or plausibility: they need the official choices file")
        empty = sum(1 for item in items if item.id in answers and not given[item.id].strip())
        by_item = {item.id: values[item.id] for item in balanced}
        return RuleScore(rule, "exact_match", overall, by_item, sub_scores, empty, tuple(notes))

    def prompt_fields(self, item: Item) -> dict[str, str]:
        """The question."""
        return {"question": item.question}

    def facts(self, items: Sequence[Item]) -> dict[str, Any]:
        """How many of the questions count."""
        return {"balanced": sum(1 for item in items if item.reference.get("isBalanced", True))}


def _cleaned(answer: str) -> str:
    return answer.strip().lower().removesuffix(".").strip()


_CLEAN = {"official": lambda answer: answer, "cleaned": _cleaned, "minigpt4": normalise.minigpt4}


def _item(identifier: str, record: Mapping[str, Any]) -> Item:
    types = record.get("types") or {}
    groups = {kind: types[kind] for kind in ("structural", "semantic") if types.get(kind)}
    if "structural" in groups:
        groups["form"] = "open" if groups["structural"] == "query" else "binary"
    return Item(identifier, str(record["imageId"]), str(record.get("question", "")), record, groups)


def _distribution(items: Sequence[Item], given: Mapping[str, str]) -> float | None:
    """Chi-square of gold against predicted answers a global group, weighted by its size (official formula)."""
    gold: dict[str, Counter[str]] = defaultdict(Counter)
    predicted: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        group = (item.reference.get("groups") or {}).get("global")
        if group is not None:
            gold[group][item.reference["answer"]] += 1
            predicted[group][given[item.id]] += 1
    total = sum(sum(counts.values()) for counts in gold.values())
    if not total:
        return None
    weighted = 0.0
    for group, counts in gold.items():
        chi = sum((predicted[group][answer] - count) ** 2 / count for answer, count in counts.items())
        weighted += chi * sum(counts.values())
    return weighted / total


def _consistency(balanced: Sequence[Item], items: Sequence[Item], values: Mapping[str, float]) -> Estimate | None:
    """Of the questions that rightly answered ones entail, the share answered rightly too (official formula).

    None where an entailed question is missing from the files: a partial consistency is another number.
    """
    known = {item.id for item in items}
    entailed = {
        item.id: [other for other in item.reference.get("entailed") or () if other != item.id] for item in balanced
    }
    if not any(entailed.values()) or any(other not in known for others in entailed.values() for other in others):
        return None
    right = [item for item in balanced if values[item.id] and entailed[item.id]]
    if not right:
        return None
    shares = [sum(values[other] for other in entailed[item.id]) / len(entailed[item.id]) for item in right]
    return clustered_mean(shares, [item.image for item in right])
