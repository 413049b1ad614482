"""Reading predictions and joining them with the questions that they answer, by id and strictly."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold.assistant.chat.thinking import split_thought
from fourfold.assistant.grounding import BoxFormat, find_boxes
from fourfold.assistant.unicode import well_formed
from fourfold.prompts.errors import UserError

_ID_FIELDS = ("question_id", "questionId", "id")
# Fields that nobody but a model fills. `answer` beside one of them is what would have been right.
_MODEL_FIELDS = ("prediction", "response", "output", "model_answer", "model_output", "model_response", "pred")
_ANSWER_FIELDS = (*_MODEL_FIELDS, "answer", "text")
_REFUSAL = re.compile(r"\b(?:sorry|cannot|can't|can not|unable to|not able to|as an ai)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Prediction:
    """One answer of a model.

    `answer` is the text behind any thought, or None where the model gave none; `boxes` are x1, y1, x2, y2 each, in the
    unit and order that the file has; `score` is P(yes), `scores` one log-likelihood a candidate. `id` is "" where the
    file names the question in words only, which POPE's own answers do.
    """

    id: str
    answer: str | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    score: float | None = None
    scores: tuple[float, ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def refused(self) -> bool:
        """Whether the answer reads like a refusal; refusals are counted and shown, and scored like any other answer."""
        return self.answer is not None and _REFUSAL.search(self.answer[:400]) is not None


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON or JSON Lines file, by its content; errors name the file and the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no {what} file at {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the {what} file itself") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); is it the {what} file?"
        ) from None
    if not text.strip():
        raise UserError(f"{path} is empty; expected {what} as JSON or JSON Lines")
    try:
        content = _loads(text, path)
        # One line of JSON Lines is a whole JSON value too; only the name tells that it is a list of one.
        return [content] if path.suffix == ".jsonl" and isinstance(content, dict) else content
    except json.JSONDecodeError as whole:
        return _read_lines(text, path, what, whole)


def _loads(text: str, where: Path | str) -> Any:
    """JSON without repeated keys, of which Python would keep the last alone."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise UserError(f"{where}: {key[:60]!r} stands twice in one object; which of the two is meant?")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise UserError(f"{where}: lists or objects are nested too deeply to be read") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{where}: {str(error).partition(';')[0]}") from None


def _read_lines(text: str, path: Path, what: str, whole: json.JSONDecodeError) -> list[Any]:
    # JSON Lines only if the first line is a value of its own; otherwise the error of the whole file says more.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    rows = []
    for position, (number, line) in enumerate(lines):
        try:
            rows.append(_loads(line, f"{path}, line {number}"))
        except json.JSONDecodeError as error:
            if position == 0:
                at, reason = f"line {whole.lineno}, column {whole.colno}", whole.msg
            else:
                at, reason = f"line {number}, column {error.colno}", error.msg
            raise UserError(f"{path} ({what}) breaks off or is damaged at {at}: {reason}") from None
    return rows


def normal_id(value: Any, where: str) -> str:
    """An id as text: 7 and "7" are the same question; anything but a whole number or text is refused."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise UserError(f"{where}: an id must be a whole number or text, not {value!r}")
    return str(value)


def read_predictions(path: Path) -> list[Prediction]:
    """Read a JSON list of records, JSON Lines, or a JSON object from id to answer (text, box or record).

    Raises:
        UserError: for anything that is not that, with the record's place in the file.
    """
    content = read_json(path, "predictions")
    records: Iterable[tuple[str, Any]]
    if isinstance(content, Mapping):
        for wrapper in ("predictions", "results", "answers"):
            if isinstance(content.get(wrapper), list):
                content = content[wrapper]
                break
    if isinstance(content, Mapping):
        if any(field in content for field in _ID_FIELDS) or {"question", "answer"} <= content.keys():
            records = [("the only record", content)]
        else:
            records = [(f"entry {key!r}", record) for key, value in content.items() for record in _entries(key, value)]
    elif isinstance(content, list):
        records = [(f"record {number}", record) for number, record in enumerate(content, start=1)]
    else:
        raise UserError(f"{path}: predictions are a list of records or an object from id to answer")
    return [_prediction(record, f"{path.name}, {where}") for where, record in records]


def _entries(key: str, value: Any) -> list[dict[str, Any]]:
    # A list of texts or records is several answers to one id, as in MiniGPT-v2's RefCOCO results.
    values = value if isinstance(value, list) and value and isinstance(value[0], (str, Mapping)) else [value]
    return [{**one, "id": key} if isinstance(one, Mapping) else {"id": key, "answer": one} for one in values]


def _prediction(record: Any, where: str) -> Prediction:
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: expected an object with an id and an answer, got {str(record)[:60]!r}")
    record = {key: _as_written(_one_text(value)) if key in _ANSWER_FIELDS else value for key, value in record.items()}
    # Official files without question ids name the image instead (VizWiz), or the referent (RefCOCO).
    names = (*_ID_FIELDS, "img_id", "image")
    identifier = next((record[name] for name in names if record.get(name) is not None), None)
    if identifier is None and not (isinstance(record.get("question"), str) and "answer" in record):
        raise UserError(f"{where}: no question_id or id; its fields are {', '.join(map(str, record)) or 'none'}")
    field = _answer_field(record, where)
    boxes = _numeric_boxes(record, field, where)
    answer = None if field is None or (boxes is not None and isinstance(record[field], list)) else record[field]
    if isinstance(answer, float):
        raise UserError(f"{where}: the answer is the number {answer}; answers are text, or whole numbers")
    if isinstance(answer, int) and not isinstance(answer, bool):
        answer = str(answer)
    if answer is not None and not isinstance(answer, str):
        raise UserError(f"{where}: the answer must be text, not {_kind(answer)}")
    if answer is not None:
        answer = split_thought(well_formed(answer)).answer
    score, scores = record.get("score", record.get("proba")), record.get("scores")
    if score is not None:
        score = _finite(score, f"{where}: score")
    if scores is not None:
        if not isinstance(scores, list):
            raise UserError(f"{where}: scores must be a list with one number a candidate")
        scores = tuple(_finite(value, f"{where}: scores") for value in scores)
    nothing = answer is None and boxes is None and score is None and scores is None
    if nothing and field is None:
        raise UserError(
            f"{where}: no answer, text, prediction, box or score; its fields are {', '.join(map(str, record))}"
        )
    name = "" if identifier is None else normal_id(identifier, where)
    return Prediction(name, answer, boxes, score, scores, record)


def _one_text(value: Any) -> Any:
    """What a list of one text holds, as samplers write it that could give several."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
        inner = value[0]
        if isinstance(inner, list) and not (len(inner) == 1 and isinstance(inner[0], (str, list))):
            break
        value = inner
    return value


def _as_written(value: Any) -> Any:
    """Boxes that somebody has parsed, `[{"bbox_2d": [1, 2, 3, 4]}]`, as the JSON that the model wrote."""
    parsed = isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(one, Mapping) for one in value))
    if not parsed:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text if find_boxes(text, BoxFormat.PIXELS) else value


def _kind(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _answer_field(record: Mapping[str, Any], where: str) -> str | None:
    """Which field holds what the model said; None where none does.

    Raises:
        UserError: two may, and they differ.
    """
    given = [name for name in _MODEL_FIELDS if name in record]
    if any(record[name] != record[given[0]] for name in given[1:]):
        raise UserError(f"{where}: {' and '.join(given)} differ; which of them is the answer? Leave the others out")
    if given:
        return given[0]
    return next((name for name in _ANSWER_FIELDS if name in record), None)


def _numeric_boxes(record: Mapping[str, Any], answer: str | None, where: str) -> tuple[tuple[float, ...], ...] | None:
    """The boxes of a record, x1, y1, x2, y2 each: several in `boxes`, or one in `box`, `bbox`, `bbox_2d`, `box_2d` or
    the answer.

    Beside an answer in words, boxes are somebody's notes, and often the truth: they are not looked at.
    """
    if answer is not None and isinstance(record[answer], str) and record[answer].strip():
        return None
    boxes = record.get("boxes")
    if boxes is not None:
        if not isinstance(boxes, list) or not all(isinstance(box, list) and len(box) == 4 for box in boxes):
            raise UserError(f"{where}: boxes must be a list of boxes, four numbers x1, y1, x2, y2 each")
        return tuple(tuple(_finite(number, f"{where}: boxes") for number in box) for box in boxes)
    for name in ("box", "bbox", "bbox_2d", "box_2d", *([answer] if answer else [])):
        value = record.get(name)
        if name != answer and value is not None and not isinstance(value, list):
            raise UserError(f"{where}: {name} must be a list of four numbers, not {_kind(value)}")
        if name == answer and isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            raise UserError(f"{where}: the answer must be text, not a list of objects")
        if not isinstance(value, list) or (name == answer and any(isinstance(one, str) for one in value)):
            continue
        if len(value) > 1 and all(isinstance(box, list) and len(box) == 4 for box in value):
            return tuple(tuple(_finite(number, f"{where}: {name}") for number in box) for box in value)
        if len(value) == 1 and isinstance(value[0], list):
            value = value[0]
        if len(value) != 4:
            raise UserError(f"{where}: {name} has {len(value)} numbers; a box has four")
        x1, y1, x2, y2 = (_finite(number, f"{where}: {name}") for number in value)
        return ((x1, y1, x1 + x2, y1 + y2) if name == "bbox" else (x1, y1, x2, y2),)
    return None


def _finite(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{where} must be a number, not {value!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise UserError(f"{where} is a number of {len(str(value))} digits") from None
    if not finite:
        raise UserError(f"{where} is {value}; NaN and infinity mean that whatever wrote this file failed there")
    return float(value)


@dataclass(frozen=True)
class Joined:
    """Predictions by question id, complete; `missing` are the ids that had none (only with allow_missing)."""

    by_id: Mapping[str, Prediction]
    missing: tuple[str, ...]


def join(predictions: Iterable[Prediction], ids: Iterable[str], *, allow_missing: bool = False) -> Joined:
    """Match predictions with the questions' ids.

    Raises:
        UserError: for duplicate or unknown ids, and for missing ones unless `allow_missing`; with counts and examples.
    """
    wanted, given = list(ids), list(predictions)
    if nameless := sum(not prediction.id for prediction in given):
        raise UserError(f"{nameless} of {len(given)} predictions have no question_id or id")
    known = set(wanted)
    by_id = {prediction.id: prediction for prediction in given}
    counts = Counter(prediction.id for prediction in given)
    duplicates = [identifier for identifier, count in counts.items() if count > 1]
    unknown = [identifier for identifier in by_id if identifier not in known]
    missing = [identifier for identifier in wanted if identifier not in by_id]
    problems = []
    if duplicates:
        problems.append(f"{len(duplicates)} ids answered more than once ({_examples(duplicates)})")
    if unknown:
        problems.append(f"{len(unknown)} of {len(by_id)} ids are not in the annotations ({_examples(unknown)})")
    if missing and not allow_missing:
        problems.append(f"{len(missing)} of {len(wanted)} questions have no prediction ({_examples(missing)})")
    if problems:
        hint = "" if duplicates or unknown else "; --allow-missing counts them as wrong"
        raise UserError("predictions and annotations do not match: " + "; ".join(problems) + hint)
    return Joined(by_id, tuple(missing))


def _examples(ids: list[str]) -> str:
    shown = ", ".join(identifier[:40] for identifier in ids[:3])
    return f"such as {shown}" if len(ids) > 3 else shown
