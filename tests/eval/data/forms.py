"""The shared annotations in every form that people have them in: official JSON, a copy of the Hub, VLMEvalKit's TSV."""

import base64
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

COUNT = 40


@dataclass(frozen=True)
class Form:
    """A benchmark's records: as the official file has them, and as rows of the Hub's copy and of VLMEvalKit's TSV.

    `hub` and `tsv` give a row without its image; None where no such copy is around.
    """

    benchmark: str
    file: str
    content: Callable[[list[Row]], Any]
    hub: Callable[[Row], Row]
    tsv: Callable[[Row], Row] | None
    image: Callable[[Row], str]
    answer: Callable[[Row], str]
    id: Callable[[Row, int], Any]


def _records(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]
    if isinstance(content, dict) and "annotations" in content:
        return content["annotations"]
    return [{"question_id": key, **value} for key, value in content.items()] if isinstance(content, dict) else content


def _texts(record: Row) -> list[str]:
    return [one["answer"] for one in record["answers"]]


def _without(record: Row, *names: str) -> Row:
    return {name: value for name, value in record.items() if name not in names}


FORMS = (
    Form(
        "textvqa",
        "textvqa/val_annotations_vqa_format.json",
        lambda rows: {"annotations": rows},
        lambda row: {**row, "question": "What?", "answers": _texts(row)},
        lambda row: {"index": row["question_id"], "question": "What?", "answer": str(_texts(row)), "split": "val"},
        lambda row: row["image_id"],
        lambda row: row["answers"][0]["answer"],
        lambda row, number: row["question_id"],
    ),
    Form(
        "vizwiz",
        "vizwiz/val_annotations_vqa_format.json",
        lambda rows: {"annotations": rows},
        lambda row: {
            "question_id": row["question_id"],
            "question": "What?",
            "answers": _texts(row),
            "question_type": row["question_type"],
        },
        None,
        lambda row: row["image_id"],
        lambda row: row["answers"][0]["answer"],
        lambda row, number: row["question_id"],
    ),
    Form(
        "gqa",
        "gqa/ood_testdev_head.json",
        lambda rows: {row["question_id"]: _without(row, "question_id") for row in rows},
        lambda row: {
            **{name: row[name] for name in ("answer", "question", "imageId", "isBalanced", "types", "groups")},
            "id": row["question_id"],
            "entailed": str(row["entailed"]),
        },
        lambda row: {"index": row["question_id"], "question": row["question"], "answer": row["answer"]},
        lambda row: row["imageId"],
        lambda row: row["answer"],
        lambda row, number: row["question_id"],
    ),
    Form(
        "pope",
        "pope/coco_pope_random.json",
        lambda rows: rows,
        lambda row: {
            "id": str(row["question_id"] - 1),
            "question_id": str(row["question_id"]),
            "question": row["text"],
            "answer": row["label"],
            "image_source": row["image"].removesuffix(".jpg"),
        },
        lambda row: {"index": row["question_id"], "question": row["text"], "answer": row["label"].title()},
        lambda row: row["image"],
        lambda row: row["label"],
        lambda row, number: row["question_id"],
    ),
    Form(
        "vsr",
        "vsr/zeroshot/test.jsonl",
        lambda rows: rows,
        lambda row: {"caption": row["caption"], "label": row["label"], "relation": row["relation"]},
        lambda row: {"question": row["caption"], "answer": "Yes" if row["label"] else "No"},
        lambda row: row["image"],
        lambda row: "true" if row["label"] else "false",
        lambda row, number: number,
    ),
    Form(
        "refcoco",
        "refcoco/refcoco_testA.json",
        lambda rows: rows,
        lambda row: {
            "question_id": row["img_id"],
            "bbox": row["bbox"],
            "answer": [row["sents"]],
            "width": row["width"],
            "height": row["height"],
        },
        None,
        lambda row: row["img_id"].rsplit("_", 1)[0],
        lambda row: "{<10><20><70><80>}",
        lambda row, number: number,
    ),
)


@dataclass(frozen=True)
class Written:
    """One benchmark in all forms, and answers to it, some right and some wrong."""

    official: Path
    images: Path
    predictions: Path
    parquet: Path
    arrow: Path
    tsv: Path | None
    content: dict[str, bytes]  # image name -> file


def write_forms(form: Form, data: Path, out: Path) -> Written:
    """`COUNT` questions about a handful of images, each image one of the COCO sample under another name."""
    rows = _records(data / form.file)[:COUNT]
    names = list(dict.fromkeys(form.image(row) for row in rows))
    files = sorted((data / "coco_sample").glob("*.jpg"))[: len(names)]
    files += files[:1] * (len(names) - len(files))
    content = {name: files[number % len(files)].read_bytes() + bytes([number]) for number, name in enumerate(names)}
    (out / "images").mkdir()
    for name, one in content.items():
        (out / "images" / (name if "." in name else f"{name}.jpg")).write_bytes(one)
    official = out / "official.json"
    official.write_text(json.dumps(form.content(rows)))
    predictions = out / "predictions.json"
    said = {
        str(form.id(row, number)): form.answer(row) if number % 3 else "something else"
        for number, row in enumerate(rows)
    }
    predictions.write_text(json.dumps(said))
    hub = [{**form.hub(row), "image": {"bytes": content[form.image(row)], "path": None}} for row in rows]
    parquet, arrow = _parquet(hub, out / "hub"), _arrow(hub, out / "disk")
    tsv = _tsv([(form.tsv(row), content[form.image(row)]) for row in rows], out / "table.tsv") if form.tsv else None
    return Written(official, out / "images", predictions, parquet, arrow, tsv, content)


def _parquet(rows: list[Row], folder: Path) -> Path:
    """Two shards as the Hub keeps them, with small row groups, and another split beside them."""
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir(parents=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        table = pyarrow.Table.from_pylist(part)
        pyarrow.parquet.write_table(table, folder / "data" / f"test-0000{number}-of-00002.parquet", row_group_size=7)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), folder / "data" / "dev-00000-of-00001.parquet")
    return folder


def _arrow(rows: list[Row], folder: Path) -> Path:
    """As `datasets` saves a data set."""
    import datasets

    features = datasets.Dataset.from_list(rows[:1]).features
    features["image"] = datasets.Image()
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder)
    return folder


def _tsv(rows: list[tuple[Row, bytes]], path: Path) -> Path:
    """As VLMEvalKit has it: an image that occurs again is named by the index of the row that holds it."""
    known: dict[bytes, Any] = {}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["index", "image", *[n for n in rows[0][0] if n != "index"]], delimiter="\t")
        writer.writeheader()
        for number, (row, image) in enumerate(rows):
            index = row.get("index", number)
            shown = known.get(image) or base64.b64encode(image).decode()
            known.setdefault(image, str(index))
            writer.writerow({"index": index, "image": shown, **{k: v for k, v in row.items() if k != "index"}})
    return path
