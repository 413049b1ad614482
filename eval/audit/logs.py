"""The sample logs of lmms-eval, VLMEvalKit and Inspect, and of runs of our own, as one list of items."""

import csv
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold.eval.benchmarks.choices import written_options
from fourfold.eval.predictions import read_json
from fourfold.prompts.errors import UserError

_OPTION = re.compile(r"^\(?([A-Z])[.):]\s*(\S.*)$", re.MULTILINE)
_LMMS_SCORES = ("exact_match", "anls", "relaxed_overall", "accuracy", "acc", "score")
_LMMS_FIELDS = frozenset(
    {"index", "id", "question_id", "questionId", "question", "hint", "category", "L2-category", "l2_category", "split"}
    | {"question_type", "data_type", "type"}
)
_LMMS_NAME = re.compile(r"samples_(.+)$")
# What the harnesses call a benchmark whose name here is another one.
_NAMES = (
    ("mmbench", "mmbench"), ("mmstar", "mmstar"), ("mmmu", "mmmu"), ("scienceqa", "scienceqa"), ("ai2d", "ai2d"),
    ("seedbench", "seedbench"), ("seed_bench", "seedbench"), ("realworldqa", "realworldqa"),
    ("hallusion", "hallusionbench"),
    ("chartqa", "chartqa"), ("docvqa", "docvqa"), ("pope", "pope"), ("textvqa", "textvqa"), ("ok_vqa", "okvqa"),
    ("okvqa", "okvqa"), ("ok-vqa", "okvqa"), ("vqav2", "vqav2"), ("vizwiz", "vizwiz"), ("gqa", "gqa"),
    ("refcoco+", "refcoco+"), ("refcocog", "refcocog"), ("refcoco", "refcoco"), ("vsr", "vsr"), ("mme", "mme"),
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One question of a log.

    Attributes:
        id: as the log has it.
        answer: what the model wrote; None where asking failed.
        row: the question in the field names of a benchmark's table: question, answer, options, image, ...
        prompt: the words that were sent, "" where the log does not say.
        taken: what the harness made of the answer, None where that is not in the log.
        score: the harness's own, 0..1, None where that is not in the log.
    """

    id: str
    answer: str | None
    row: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    taken: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class SampleLog:
    """A log: who wrote it (`lmms-eval`, `VLMEvalKit`, `Inspect`, `fourfold`), what of, and its items."""

    path: Path
    harness: str
    task: str
    items: tuple[Item, ...]

    @property
    def benchmark(self) -> str | None:
        """The benchmark here that the task's name says it is; None for none."""
        task = self.task.lower()
        return next((ours for theirs, ours in _NAMES if theirs in task), None)


def read_log(path: Path) -> SampleLog:
    """Read a log by what is in it.

    Raises:
        UserError: it is none that is known, or it is damaged; with the place.
    """
    if path.is_dir():
        return _ours(path)
    if not path.is_file():
        raise UserError(f"no log at {path}")
    if path.suffix in (".xlsx", ".tsv", ".csv"):
        rows = _sheet(path) if path.suffix == ".xlsx" else _separated(path)
        return _vlmevalkit(path, rows)
    if path.suffix == ".eval" or zipfile.is_zipfile(path):
        return _inspect(path)
    content = read_json(path, "sample log")
    if isinstance(content, Mapping) and "samples" in content and "eval" in content:
        return _inspect(path)
    if isinstance(content, Mapping) and isinstance(content.get("logs"), list):  # lmms-eval before 0.3
        content = content["logs"]
    if isinstance(content, list) and content and all(isinstance(one, Mapping) for one in content):
        if "doc_id" in content[0]:
            return _lmms_eval(path, content)
        if "prediction" in content[0]:
            return _vlmevalkit(path, content)
    raise UserError(
        f"{path} is no sample log that is known here: expected lmms-eval's ..._samples_TASK.jsonl (--log_samples), "
        "VLMEvalKit's MODEL_DATASET.xlsx, .tsv or .json, Inspect's .eval or .json, or the folder of a run"
    )


def _lmms_eval(path: Path, records: Iterable[Mapping[str, Any]]) -> SampleLog:
    named = _LMMS_NAME.search(path.stem)
    items = []
    filters: dict[str, Any] = {}
    for number, record in enumerate(records, start=1):
        if "doc_id" not in record:
            raise UserError(f"{path}, record {number} has no doc_id; is this whole file a sample log of lmms-eval?")
        # A task with several filters has a record of each; the answer as it was written is the same in all.
        if filters.setdefault(str(record["doc_id"]), record.get("filter")) != record.get("filter"):
            continue
        taken = _text(record.get("filtered_resps"))
        prompt = _text(record.get("input", record.get("arguments"))) or ""
        row: dict[str, Any] = {"index": record["doc_id"], "question": prompt, "answer": record.get("target")}
        row |= dict(_OPTION.findall(prompt)) or written_options(prompt)
        score = None
        for name, value in record.items():
            if isinstance(value, Mapping) and name not in ("doc", "token_counts"):
                # Metrics that are computed over all samples at the end keep here what they will need. An "answer"
                # among it is the right one in some tasks and the model's in others; the right one is the target.
                row |= {key: one for key, one in value.items() if key in _LMMS_FIELDS or len(key) == 1}
                found = value.get("score")
            else:
                found = value if name in _LMMS_SCORES else None
            if isinstance(found, (bool, int, float)):
                score = float(found)
        if isinstance(record.get("doc"), Mapping):
            row |= record["doc"]
        answer = _text(record.get("resps", record.get("filtered_resps")))
        items.append(Item(str(record["doc_id"]), answer, row, prompt, taken, score))
    return SampleLog(path, "lmms-eval", named[1] if named else path.stem, tuple(items))


def _text(value: Any) -> str | None:
    """The first text in nested lists."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value if isinstance(value, str) else None


def _vlmevalkit(path: Path, rows: Iterable[Mapping[str, Any]]) -> SampleLog:
    items = []
    for number, row in enumerate(rows, start=1):
        if "prediction" not in row or "index" not in row:
            raise UserError(f"{path}, row {number} has no index or no prediction; is this a result of VLMEvalKit?")
        row = {name: None if value != value else value for name, value in row.items()}  # pandas writes NaN for nothing
        kept = {name: value for name, value in row.items() if value is not None and name not in _JUDGED}
        index = str(row["index"]).removesuffix(".0")
        taken, hit = row.get("extracted"), row.get("hit", row.get("score", row.get("eval_score")))
        answer = None if row["prediction"] is None else str(row["prediction"])
        score = float(hit) if isinstance(hit, (bool, int, float)) else None
        items.append(Item(index, answer, {**kept, "index": index}, "", None if taken is None else str(taken), score))
    if not items:
        raise UserError(f"{path} holds no rows")
    return SampleLog(path, "VLMEvalKit", path.stem, tuple(items))


_JUDGED = frozenset(
    {"prediction", "hit", "log", "score", "extracted", "eval_score", "eval_match", "eval_pred", "eval_gt"}
)


def _sheet(path: Path) -> list[dict[str, Any]]:
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path} is no Excel file that can be read: {error}") from None
    rows = book.worksheets[0].iter_rows(values_only=True)
    header = [str(name) for name in next(rows, ())]
    return [dict(zip(header, row, strict=False)) for row in rows if any(cell is not None for cell in row)]


def _separated(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            return [{name: value or None for name, value in row.items() if name is not None} for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table that can be read: {error}") from None


def _inspect(path: Path) -> SampleLog:
    """The format is a JSON object, or the same in pieces in a ZIP file; only its documented fields are read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if any(one.compress_type == _ZSTANDARD for one in archive.infolist()):
                    import zipfile_zstd  # noqa: F401  # teaches zipfile the compression of Inspect's newer logs
                header = "header.json" if "header.json" in names else "_journal/start.json"
                task = json.loads(archive.read(header))["eval"]["task"]
                samples = [json.loads(archive.read(name)) for name in names if name.startswith("samples/")]
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
            task, samples = content["eval"]["task"], content["samples"] or []
        first = [one for one in samples if one.get("epoch", 1) == 1]
        first.sort(key=lambda one: (isinstance(one["id"], str), one["id"]))
        items = tuple(map(_inspect_item, first))
    except ImportError:
        raise UserError(f"{path} is compressed by Zstandard; pip install 'fourfold[inspect]' reads it") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no log of Inspect that can be read: {type(error).__name__} {error}") from None
    if not items:
        raise UserError(f"{path} holds no samples; was the run broken off, or written without them?")
    return SampleLog(path, "Inspect", str(task), items)


_ZSTANDARD = 93
_INSPECT_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


def _inspect_item(sample: Mapping[str, Any]) -> Item:
    prompt, target = _inspect_text(sample.get("input")), sample.get("target")
    if isinstance(target, list) and len(target) == 1:
        target = target[0]
    row = {"index": sample["id"], "question": prompt, "answer": target}
    if sample.get("choices"):
        row["choices"] = sample["choices"]
    row |= sample.get("metadata") or {}
    answer = None if sample.get("error") else _completion(sample.get("output") or {})
    scored = next(iter((sample.get("scores") or {}).values()), None) or {}
    value = scored.get("value")
    value = _INSPECT_VALUES.get(value) if isinstance(value, str) else value
    score = float(value) if isinstance(value, (bool, int, float)) else None
    return Item(str(sample["id"]), answer, row, prompt, scored.get("answer"), score)


def _completion(output: Mapping[str, Any]) -> str | None:
    if isinstance(output.get("completion"), str):
        return output["completion"]
    choices = output.get("choices") or []
    return _inspect_text([choices[0]["message"]]) if choices else None


def _inspect_text(value: Any) -> str:
    """The words of a prompt: text, or messages whose content is text or parts."""
    if isinstance(value, str):
        return value
    parts = []
    for message in value or []:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            parts.append(content)
        else:
            parts += [
                part["text"] for part in content or [] if isinstance(part, Mapping) and part.get("type") == "text"
            ]
    return "\n".join(parts)


def _ours(path: Path) -> SampleLog:
    try:
        configuration = json.loads((path / "run.json").read_text(encoding="utf-8"))["configuration"]
        samples = json.loads((path / "samples.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} holds no finished run ({Path(error.filename).name} is missing)") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} holds a damaged run: {error}") from None
    items = tuple(
        Item(
            one["id"],
            one["answer"],
            {"question_id": one["id"], "question": one["question"], "image": one["image"]},
            one["prompt"],
            None,
            one.get("score"),
        )
        for one in samples
    )
    return SampleLog(path, "fourfold", configuration["benchmark"], items)
