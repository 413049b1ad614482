"""MME and HallusionBench: yes-no questions that count alone and together with others about the same picture."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fourfold.eval.benchmarks.benchmark import Answers, GradedBenchmark, Options, RuleScore, text_of, unique_ids
from fourfold.eval.benchmarks.choices import question_records
from fourfold.eval.data.official import read_content
from fourfold.eval.predictions import Prediction, normal_id
from fourfold.eval.scorers.yes_no import first_verdict, mme_verdict, only_verdict
from fourfold.eval.statistics import Estimate, bootstrap_weighted, clustered_mean
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

_READERS: Mapping[str, Callable[[str], bool | None]] = {
    "official": mme_verdict,
    "vlmevalkit": only_verdict,
    "strict": first_verdict,
}

_PERCEPTION = frozenset(
    "existence count position color posters celebrity scene landmark artwork OCR".split()  # noqa: SIM905
)


class YesNo(GradedBenchmark):
    """Yes-no questions; a sample's `reference` has the `answer`, yes or no, and what else it counts together with."""

    name: ClassVar[str] = "yes-no questions"
    rules: ClassVar[tuple[str, ...]] = ("strict", "vlmevalkit", "official")
    prompt_field: ClassVar[str] = "question"

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """Rows of a table, or records of the official JSON."""
        content = read_content(annotations, self.name, f"{self.name} questions", options.split)
        records = question_records(content, annotations, self.name, ("question",), ("answer", "gt_answer"))
        return unique_ids((self._sample(one, n, annotations) for n, one in enumerate(records)), annotations)

    def _sample(self, record: Mapping[str, Any], number: int, path: Path) -> Sample:
        """One record's question; UserError where it is none of this benchmark."""
        answer = str(record.get("answer", "")).strip().rstrip(".").lower()
        if answer not in ("yes", "no") or "question" not in record:
            raise UserError(f"{path.name}, row {number + 1}: it needs question, and answer (yes or no)")
        key = str(record.get("index", number))
        image = str(record.get("image") or f"question {key}")
        return Sample(key, str(record["question"]), reference={"answer": answer}, cluster=image)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        verdict = _READERS[rule](text_of(prediction))
        return float(verdict is (sample.reference["answer"] == "yes")), verdict is not None


class MME(YesNo):
    """MME: accuracy, and its scores: of a kind, accuracy and accuracy+ (both questions of an image right) in percent.

    Perception is the sum over ten kinds, at most 2000, cognition over four, at most 800. Rules: `official` looks for
    yes and no in the first four characters, `vlmevalkit` for one of them alone among the words, `strict` for the first.
    """

    name: ClassVar[str] = "mme"
    rules: ClassVar[tuple[str, ...]] = ("official", "vlmevalkit", "strict")

    def _sample(self, record: Mapping[str, Any], number: int, path: Path) -> Sample:
        where = f"{path.name}, row {number + 1}"
        answer = str(record.get("answer", "")).strip().rstrip(".").lower()
        if answer not in ("yes", "no") or "question" not in record or "category" not in record:
            raise UserError(f"{where} is none of MME: it needs question, category, and answer (yes or no)")
        # Copies give both questions of an image one `question_id`; MME's own results name no id at all.
        key = str(record["index"]) if "index" in record else str(number)
        pair = str(record.get("question_id", record.get("image")))
        kind = str(record["category"])
        image = str(record.get("image") or pair)
        reference = {"answer": answer, "pair": pair}
        return Sample(key, str(record["question"]), reference=reference, cluster=image, groups={"kind": kind})

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Accuracy, and MME's scores with bootstrap intervals."""
        result = super().score(samples, answers, rule, options)
        pairs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for sample in samples:
            pairs[sample.groups["kind"]][sample.reference["pair"]].append(result.by_sample[sample.id])
        odd = [kind for kind, found in pairs.items() if any(len(one) != 2 for one in found.values())]
        if odd:
            note = f"no MME scores: images of {', '.join(sorted(odd)[:3])} do not have two questions each in this file"
            return replace(result, notes=(note,))
        tables = {kind: np.array(list(found.values())) for kind, found in sorted(pairs.items())}
        scores: dict[str, Estimate | float] = {}
        for name, kinds in (
            ("perception (of 2000)", _PERCEPTION & set(tables)),
            ("cognition (of 800)", set(tables) - _PERCEPTION),
            *((f"score (of 200)/{kind}", {kind}) for kind in tables),
        ):
            if kinds:
                scores[name] = _mme_score([tables[kind] for kind in sorted(kinds)])
        return replace(result, sub_scores={**scores, **result.sub_scores})


def _mme_score(tables: Sequence[np.ndarray]) -> Estimate:
    """Sum over kinds of accuracy and accuracy+; each table is (images, 2) of 0 and 1."""
    kinds = np.concatenate([np.full(len(table), number) for number, table in enumerate(tables)])
    rows = np.concatenate(tables)
    points = 100 * (rows.mean(axis=1) + (rows.sum(axis=1) == 2))

    def total(weights: np.ndarray) -> float:
        sums = np.bincount(kinds, weights=weights * points, minlength=len(tables))
        counts = np.bincount(kinds, weights=weights, minlength=len(tables))
        return float(np.sum(sums / counts)) if np.all(counts) else float("nan")

    return bootstrap_weighted(total, list(range(len(rows))))


class HallusionBench(YesNo):
    """HallusionBench: accuracy over questions (aAcc), figures (fAcc) and question pairs (qAcc) that are wholly right.

    Rules: `vlmevalkit` reads yes or no as that harness does without a judge, `strict` takes the first whole word. The
    release itself asks a GPT-4 to judge, which is not done here.
    """

    name: ClassVar[str] = "hallusionbench"
    rules: ClassVar[tuple[str, ...]] = ("vlmevalkit", "strict")

    def _sample(self, record: Mapping[str, Any], number: int, path: Path) -> Sample:
        where = f"{path.name}, row {number + 1}"
        answer = {"1": "yes", "0": "no", "yes": "yes", "no": "no"}.get(
            str(record.get("gt_answer", record.get("answer", ""))).strip().lower()
        )
        if answer is None or "question" not in record:
            raise UserError(f"{where} is none of HallusionBench: it needs question, and gt_answer 0 or 1 (or yes, no)")
        index = str(record.get("index", ""))
        if "set_id" in record:
            kind = str(record.get("subcategory", ""))
            of_set, figure, question = (str(record[name]) for name in ("set_id", "figure_id", "question_id"))
            key = "_".join([str(record.get("category", "")), kind, of_set, figure, question])
        elif index.count("_") >= 5:  # VLMEvalKit's index holds them
            kind, key = str(record.get("l2-category", "")), index
            of_set, figure, question = index.split("_")[3:6]
        else:
            raise UserError(f"{where} is none of HallusionBench: it needs set_id, figure_id and question_id")
        groups = {"category": str(record["category"])} if record.get("category") else {}
        image = record.get("image")
        if str(record.get("visual_input", "1")) == "0":
            image = None
        return Sample(
            normal_id(key, where),
            str(record["question"]),
            reference={
                "answer": answer,
                "figure": f"{kind}_{of_set}_{figure}",
                "question": f"{kind}_{of_set}_{question}",
            },
            cluster=str(image).removeprefix("./") if image else f"question {key}",
            groups=groups,
        )

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """aAcc, fAcc and qAcc, over all and by category."""
        result = super().score(samples, answers, rule, options)
        shown: dict[str, Estimate | float] = {}
        kinds = sorted({sample.groups["category"] for sample in samples if "category" in sample.groups})
        for kind in (None, *kinds):
            some = [one for one in samples if kind is None or one.groups.get("category") == kind]
            suffix = "" if kind is None else f"/{kind}"
            for name, group in (("fAcc", "figure"), ("qAcc", "question")):
                shown[name + suffix] = _all_right(some, result.by_sample, group)
            if kind is not None:
                shown[f"aAcc{suffix}"] = clustered_mean(
                    [result.by_sample[one.id] for one in some], [one.cluster for one in some]
                )
        return replace(result, metric="aAcc", sub_scores=shown)


def _all_right(samples: Sequence[Sample], values: Mapping[str, float], group: str) -> Estimate:
    """The share of groups in which every question is right; each group is an observation of its own."""
    right: dict[str, float] = {}
    for sample in samples:
        right[sample.reference[group]] = min(right.get(sample.reference[group], 1.0), values[sample.id])
    return clustered_mean(list(right.values()), list(right))
