"""Questions with lettered options: MMBench, MMStar, MMMU, ScienceQA, AI2D, SEED-Bench, RealWorldQA."""

import re
import string
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
from fourfold.eval.data.official import as_list, read_content
from fourfold.eval.predictions import Prediction, normal_id
from fourfold.eval.scorers.choice import READERS, Choice
from fourfold.eval.scorers.mmmu_open import mmmu_open
from fourfold.eval.statistics import clustered_mean
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

PICK = "Answer with the option's letter from the given choices directly."
SAY = "Answer the question using a single word or phrase."

_IDS = ("question_id", "questionId", "index", "id", "data_id")
_GROUPS = ("category", "l2-category", "L2-category", "l2_category", "subject", "topic", "question_type_id")
_TURNS = 1_000_000
"""MMBench's turned copies of question n have the indices n + k million."""
_LINE = re.compile(r"^\(?([A-Z])[.):]\s+(\S.*)$", re.MULTILINE)
_IN_A_ROW = re.compile(r"\b(?:options|choices)\s*:\s*(?=\(?A\s?[.):])", re.IGNORECASE)


class MultipleChoice(GradedBenchmark):
    """A benchmark of questions with options; a sample's `reference` is a `Choice`.

    Args:
        name: of the benchmark.
        rules: name of a rule -> the reader in `scorers.choice` that it takes letters out of answers with.
    """

    prompt_field: ClassVar[str] = "question"

    def __init__(self, name: str, rules: Mapping[str, str]) -> None:
        self.name = name  # type: ignore[misc]
        self.rules = tuple(rules)  # type: ignore[misc]
        self._readers = rules

    def read(self, annotations: Path, questions: Path | None, options: Options) -> list[Sample]:
        """Rows of a table, or records of the official JSON."""
        content = read_content(annotations, self.name, f"{self.name} questions", options.split)
        records = question_records(content, annotations, self.name, ("question",), ("answer",))
        return unique_ids(
            (self._sample(record, number, f"{annotations.name}, row {number + 1}")
             for number, record in enumerate(records)),
            annotations,
        )  # fmt: skip

    def _sample(self, record: Mapping[str, Any], number: int, where: str) -> Sample:
        question = str(record.get("question", ""))
        options, written = _options(record), written_options(question)
        # MMStar's copy on the Hub has its options in the question's words alone.
        if not options and str(record.get("answer")).strip().upper() in written:
            options = written
        if record.get("answer") in (None, ""):
            raise UserError(f"{where}: no answer to compare with (a test split has none)")
        choice = Choice(_letter(record["answer"], options, where) if options else str(record["answer"]), options)
        identifier = normal_id(next((record[name] for name in _IDS if name in record), number), where)
        asked = _lettered(question, options) if options and not written else question
        hint = record.get("hint")
        if hint and hint != "nan":
            asked = f"{hint}\n{asked}"
        if "letter of the correct option" not in asked:
            asked += f"\n{PICK if options else SAY}"
        groups = {}
        for name in _GROUPS:
            if record.get(name) not in (None, ""):
                groups[name.lower().replace("_", "-")] = str(record[name])
        image = record.get("image", record.get("data_id"))
        cluster = str(image) if image else f"question {identifier}"
        return Sample(identifier, asked, reference=choice, cluster=cluster, groups=groups)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        """Whether the letter that the rule reads is the right one."""
        letter = READERS[self._readers[rule]](text_of(prediction), sample.reference.options)
        return float(letter == sample.reference.answer), letter is not None

    def submission(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """The words under the id, which `eval score` reads too."""
        return [{"question_id": one.id, "answer": text_of(one)} for one in predictions]


class MMBench(MultipleChoice):
    """MMBench under CircularEval: a question counts as right where it is right in every order of its options.

    Rules: `circular` reads letters as VLMEvalKit does without a judge, `lmms_eval` as lmms-eval's static evaluation
    does; `vanilla` counts every row on its own.
    """

    def __init__(self, name: str = "mmbench") -> None:
        super().__init__(name, {"circular": "vlmevalkit", "vanilla": "vlmevalkit", "lmms_eval": "mmbench_static"})

    def _sample(self, record: Mapping[str, Any], number: int, where: str) -> Sample:
        sample = super()._sample(record, number, where)
        group = str(int(sample.id) % _TURNS) if sample.id.isdecimal() else sample.id
        return replace(sample, reference=replace(sample.reference, group=group))

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """Over whole questions, but for `vanilla`."""
        result = super().score(samples, answers, rule, options)
        if rule == "vanilla":
            return result
        right: dict[str, float] = {}
        for sample in samples:
            group = sample.reference.group
            right[group] = min(right.get(group, 1.0), result.by_sample[sample.id])
        # A question's first order stands for it; where that is not in the file, its orders cannot be told apart.
        first = [sample for sample in samples if sample.id == sample.reference.group]
        if {sample.reference.group for sample in first} != set(right):
            raise UserError("turned copies of questions whose first order is not in the file; use --rule vanilla")
        values = {sample.id: right[sample.id] for sample in first}
        overall, groups = mean_by_group(first, values)
        turned = len(samples) - len(first)
        note = f"{len(first)} questions with {turned} turned copies; right only where every order is"
        if not turned:
            note = "no turned copies in the file: every question was asked in one order only"
        return replace(result, headline=overall, by_sample=values, sub_scores=groups, notes=(note,))

    def facts(self, samples: Sequence[Sample], options: Options) -> dict[str, Any]:
        """Rows and questions."""
        return {"rows": len(samples), "questions": len({sample.reference.group for sample in samples})}


class MMStar(MultipleChoice):
    """MMStar; `lmms_eval` averages the means of the second-level categories, `vlmevalkit` all questions alike."""

    def __init__(self) -> None:
        super().__init__("mmstar", {"vlmevalkit": "vlmevalkit", "lmms_eval": "lmms_eval"})

    def score(self, samples: Sequence[Sample], answers: Answers, rule: str, options: Options) -> RuleScore:
        """The mean, or the mean of means."""
        result = super().score(samples, answers, rule, options)
        kinds = [sample.groups.get("l2-category") for sample in samples]
        if rule != "lmms_eval" or None in kinds:
            return result
        shares = {kind: len(samples) / (len(set(kinds)) * kinds.count(kind)) for kind in set(kinds)}
        weighted = [result.by_sample[one.id] * shares[kind] for one, kind in zip(samples, kinds, strict=True)]
        headline = clustered_mean(weighted, [one.cluster for one in samples], ceiling=None)
        return replace(result, headline=headline, notes=("the mean of the second-level categories' means",))


class MMMU(MultipleChoice):
    """MMMU, with its open questions.

    Rules: `official` reads letters and open answers as MMMU's script does. Where that finds no letter it draws one;
    here such an answer counts 1 / options, the mean of that draw, so that the score is the same each time. `strict` is
    the same without that. `vlmevalkit` makes of an open question one with the options "answer" and "Other Answers".
    """

    def __init__(self) -> None:
        super().__init__("mmmu", {"official": "mmmu", "strict": "mmmu", "vlmevalkit": "vlmevalkit"})

    def _sample(self, record: Mapping[str, Any], number: int, where: str) -> Sample:
        # In copies with columns A, B, ... an open question has none of them; others say so in words.
        options = {} if record.get("question_type") == "open" else _options(record)
        if options:
            sample = super()._sample(record, number, where)
        else:
            answers = [str(one) for one in as_list(record.get("answer"))]
            kept = {name: value for name, value in record.items() if name not in ("options", "choices")}
            sample = super()._sample({**kept, "answer": "\n".join(answers)}, number, where)
        subject = sample.id.split("_", 1)[-1].rsplit("_", 1)[0] if sample.id.count("_") >= 2 else None
        groups = {**sample.groups, "form": "choice" if options else "open"} | ({"subject": subject} if subject else {})
        return replace(sample, groups=groups)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        """Letters, or what an open answer comes to."""
        choice, said = sample.reference, text_of(prediction)
        if choice.options:
            score, read = super().grade(sample, prediction, rule)
            return (1 / len(choice.options), False) if rule == "official" and not read else (score, read)
        references = choice.answer.split("\n")
        if rule == "vlmevalkit":
            letter = READERS["vlmevalkit"](said, {"A": references[0], "B": "Other Answers"})
            return float(letter == "A"), letter is not None
        return float(mmmu_open(said, references)), bool(said.strip())


class RealWorldQA(MultipleChoice):
    """RealWorldQA: questions with options in their text or in columns, and some with a word or number as answer."""

    def __init__(self) -> None:
        super().__init__("realworldqa", {"vlmevalkit": "vlmevalkit", "lmms_eval": "lmms_eval"})

    def _sample(self, record: Mapping[str, Any], number: int, where: str) -> Sample:
        if not _options(record) and (found := dict(_LINE.findall(str(record.get("question", ""))))):
            record = {**record, **found}
        return super()._sample(record, number, where)

    def grade(self, sample: Sample, prediction: Prediction, rule: str) -> tuple[float, bool]:
        """lmms-eval looks for A to D whatever the options are; an open answer must be the words."""
        choice, said = sample.reference, text_of(prediction)
        if choice.options and rule != "lmms_eval":
            return super().grade(sample, prediction, rule)
        if choice.answer.upper() in _FOUR:
            letter = READERS["lmms_eval"](said, _FOUR)
            return float(letter == choice.answer.upper()), letter is not None
        return float(said.lower().strip().rstrip(".") == choice.answer.lower()), bool(said.strip())


_FOUR = dict.fromkeys("ABCD", "")


def question_records(content: Any, path: Path, name: str, *fields: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """The records of a table or of an official JSON file: a list, an object by id, or under `questions` or `data`.

    Args:
        content: of the file.
        path: of the file, for errors.
        name: of the benchmark.
        fields: of each of these groups every record must have one.

    Raises:
        UserError: it is another file.
    """
    records = content
    if isinstance(content, Mapping):
        records = [{"question_id": key, **one} for key, one in content.items() if isinstance(one, Mapping)]
        records = next((content[key] for key in ("questions", "data") if isinstance(content.get(key), list)), records)
    if not isinstance(records, list) or not all(
        isinstance(one, Mapping) and all(any(key in one for key in group) for group in fields) for one in records
    ):
        wanted = ", ".join(" or ".join(group) for group in fields)
        raise UserError(
            f"{path} is no file of {name}'s questions: expected rows with {wanted} (a test split has no answers)"
        )
    return records


def written_options(question: str) -> dict[str, str]:
    """Letter -> text of options in a question's own words: a line each, or in a row as MMStar's, `Options: A: x, B: y`.

    {} where there are none, or their letters do not follow each other from A.
    """
    found = dict(_LINE.findall(question))
    if not found and (begun := _IN_A_ROW.search(question)):
        row = question[begun.end() :].split("\n")[0]
        places = []
        at = 0
        for letter in string.ascii_uppercase:
            mark = re.compile(rf"(?:^|(?<=[\s,;])|\()\(?{letter}\s?[.):]\s*").search(row, at)
            if mark is None:
                break
            places.append((letter, mark.start(), mark.end()))
            at = mark.end()
        ends = [start for _, start, _ in places[1:]] + [len(row)]
        found = {letter: row[end:until].strip(" ,;") for (letter, _, end), until in zip(places, ends, strict=True)}
    return found if len(found) > 1 and list(found) == list(string.ascii_uppercase[: len(found)]) else {}


def _options(record: Mapping[str, Any]) -> dict[str, str]:
    """Letter -> text, from a list, from columns A, B, ... or from choice_a, choice_b, ..."""
    listed = as_list(record.get("options", record.get("choices", [])))
    if not listed:
        listed = [record[f"choice_{letter}"] for letter in "abcdefgh" if f"choice_{letter}" in record]
    if listed:
        return dict(zip(string.ascii_uppercase, map(str, listed), strict=False))
    return {letter: str(record[letter]) for letter in string.ascii_uppercase if record.get(letter) not in (None, "nan")}


def _letter(answer: Any, options: Mapping[str, str], where: str) -> str:
    """The right letter, from a letter, an index from 0, or the option's words."""
    text = str(answer).strip()
    if text.upper() in options:
        return text.upper()
    if text.isdecimal() and int(text) < len(options) and text not in options.values():
        return list(options)[int(text)]
    found = [letter for letter, words in options.items() if words == text]
    if len(found) != 1:
        raise UserError(f"{where}: the answer {text[:40]!r} is none of the options {', '.join(options)}")
    return found[0]


def _lettered(question: str, options: Mapping[str, str]) -> str:
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in options.items())])
