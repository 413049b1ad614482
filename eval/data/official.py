"""Rows of a table as the records of a benchmark's official file, so that one reader serves every form.

Column names are those of the copies that lmms-eval and VLMEvalKit score (`lmms-lab/...` on the Hub, `....tsv`).
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fourfold.eval.data.pictures import Picture, digest
from fourfold.eval.data.table import Row, Table, is_table, open_table
from fourfold.eval.predictions import read_json
from fourfold.prompts.errors import UserError

_IMAGE_NAMES = (
    "image_id",
    "imageId",
    "image_source",
    "file_name",
    "img",
    "imgname",
    "filename",
    "data_id",
    "image_path",
)
"""Columns that name an image, the first that there is."""


def read_content(path: Path, benchmark: str, what: str, split: str | None = None) -> Any:
    """What a benchmark's reader gets: its JSON, or the same records out of a table.

    Raises:
        UserError: the file cannot be read, or its rows are not this benchmark's.
    """
    if not is_table(path):
        return read_json(path, what)
    return _read_table(path, benchmark, split)[0]


def stored_pictures(path: Path, benchmark: str, split: str | None = None) -> Mapping[str, Picture | None]:
    """Image name in the records of `read_content` -> the picture; {} for a path that is no table."""
    return _read_table(path, benchmark, split)[1] if is_table(path) else {}


@lru_cache(maxsize=4)
def _read_table(path: Path, benchmark: str, split: str | None) -> tuple[list[Row], dict[str, Picture | None]]:
    table = open_table(path, split)
    elsewhere = _sibling_images(path, split)
    pictures: dict[str, Picture | None] = {}

    def name_of(number: int, row: Row) -> tuple[str, Picture | None]:
        picture, name = table.picture(number), image_name(row)
        if picture is None and name is not None and name in elsewhere:
            picture = elsewhere[name]
        if name is None and picture is not None:
            name = digest(picture)
        if name is None:
            name = f"question {row.get('question_id', row.get('index', row.get('id', number)))}"
            pictures[name] = None
        elif picture is not None:
            pictures.setdefault(name, picture)
        return name, picture

    return official_records(table.rows, benchmark, str(path), name_of), pictures


def official_records(
    rows: Sequence[Row],
    benchmark: str,
    where: str,
    name_of: Callable[[int, Row], tuple[str, Picture | None]],
) -> list[Row]:
    """A table's rows as records of the benchmark's official file; `name_of` gives a row's image.

    Raises:
        UserError: rows are not this benchmark's.
    """
    convert = _CONVERSIONS.get(benchmark, dict)
    records: list[Row] = []
    for number, row in enumerate(rows):
        name, picture = name_of(number, row)
        try:
            found = convert({"_row": number, "_picture": picture, **row, "image": name})
        except (KeyError, ValueError, TypeError) as error:
            missing = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{where}, row {number + 1} is none of {benchmark}: {missing}; its columns are {', '.join(row)}"
            ) from None
        records += found if isinstance(found, list) else [found]
    if benchmark == "pope":
        _tell_apart(records)
    return [{key: value for key, value in record.items() if not key.startswith("_")} for record in records]


def image_name(row: Row) -> str | None:
    """What a table calls the image of a row; COCO's names get the suffix that their files have."""
    name = next((str(row[column]) for column in _IMAGE_NAMES if isinstance(row.get(column), (str, int))), None)
    return f"{name}.jpg" if name is not None and name.startswith("COCO_") and "." not in name else name


def _tell_apart(rows: list[Row]) -> None:
    """POPE's three question sets share their ids; where a table holds several, the set goes before the id."""
    if len({row["question_id"] for row in rows}) < len(rows):
        for row in rows:
            row["question_id"] = f"{row.get('category', 'set')}/{row['question_id']}"


def _sibling_images(path: Path, split: str | None) -> Mapping[str, Picture | None]:
    """Images of a data set that keeps them apart from the questions, as GQA's copies do ("..._instructions")."""
    if split is None or not path.is_dir() or "_instructions" not in split:
        return {}
    table: Table = open_table(path, split.replace("_instructions", "_images"))
    return {str(row["id"]): table.picture(number) for number, row in enumerate(table.rows)}


def _first(row: Row, *names: str) -> Any:
    """The value of the first of these columns that there is; KeyError with the first name."""
    for name in names:
        if name in row:
            return row[name]
    raise KeyError(names[0])


def _literal(value: Any) -> Any:
    """A list or dict that a TSV or a copy holds as text."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def as_list(value: Any) -> list[Any]:
    """A list of answers, of which tables hold one alone as text."""
    value = _literal(value)
    return value if isinstance(value, list) else [value]


def _question_id(row: Row) -> Any:
    return _first(row, "question_id", "questionId", "index", "id")


def _vqa(row: Row) -> Row:
    record = {
        "question_id": _question_id(row),
        "question": row["question"],
        "image_id": row["image"],
        "answers": as_list(_first(row, "answers", "answer")),
    }
    kinds = {"answer_type": row.get("answer_type", row.get("category")), "question_type": row.get("question_type")}
    return record | {name: str(kind) for name, kind in kinds.items() if kind}


def _vizwiz(row: Row) -> Row:
    return _vqa(row) | {"question_id": _first(row, "question_id", "index", "image")}


def _gqa(row: Row) -> Row:
    record = {**row, "question_id": _question_id(row), "imageId": row["image"], "answer": str(row["answer"])}
    for name in ("entailed", "equivalent"):
        if name in row:
            record[name] = [str(one) for one in as_list(row[name]) if one != ""]
    return record | {name: _literal(row[name]) for name in ("types", "groups") if name in row}


def _refcoco(row: Row) -> list[Row]:
    box = [float(number) for number in as_list(row["bbox"])]
    if "width" in row and "height" in row:
        size = int(row["width"]), int(row["height"])
    else:
        size = row["_picture"].open().size
    sents = as_list(_first(row, "sents", "answer", "sentences"))
    known = {"img_id": _first(row, "img_id", "question_id", "index"), "image": row["image"], "bbox": box}
    return [known | {"sents": str(sent), "width": size[0], "height": size[1]} for sent in sents]


def _pope(row: Row) -> Row:
    return {
        "question_id": _question_id(row),
        "image": row["image"],
        "text": _first(row, "text", "question"),
        "label": str(_first(row, "label", "answer")).lower(),
    } | ({"category": str(row["category"])} if "category" in row else {})


def _vsr(row: Row) -> Row:
    label = _first(row, "label", "answer")
    label = {"yes": 1, "no": 0, "true": 1, "false": 0, "1": 1, "0": 0}.get(str(label).lower(), label)
    known = {"image": row["image"], "caption": _first(row, "caption", "question"), "label": label}
    return known | {name: row[name] for name in ("relation", "question_id", "id") if name in row}


def _hateful_memes(row: Row) -> Row:
    return {"id": _first(row, "id", "index"), "img": row["image"], "label": int(row["label"]), "text": row["text"]}


def _iconvqa(row: Row) -> Row:
    choices = row["choices"]
    choices = as_list(choices) if not isinstance(choices, str) or choices[:1] == "[" else choices.split(",")
    answer = row["answer"]
    if isinstance(answer, str):
        answer = choices.index(answer) if answer in choices else int(answer)
    known = {"question": row["question"], "choices": choices, "answer": answer, "image_id": row["image"]}
    return known | {"question_id": _question_id(row)}


_CONVERSIONS: Mapping[str, Callable[[Row], Row | list[Row]]] = {
    **dict.fromkeys(("okvqa", "vqav2", "textvqa"), _vqa),
    "vizwiz": _vizwiz,
    "gqa": _gqa,
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog"), _refcoco),
    "pope": _pope,
    "vsr": _vsr,
    "hatefulmemes": _hateful_memes,
    "iconvqa": _iconvqa,
}
