"""Small tables of the benchmarks that come as tables: eight questions on four pictures, and what is right."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

Row = dict[str, Any]


def picture(number: int) -> bytes:
    """One of a handful of plain pictures, a PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (number * 60, 40, 90)).save(buffer, "PNG")
    return buffer.getvalue()


_LETTERS = "ABCD"
_TEXTS = ["red", "green", "blue", "white"]


def _columns(number: int, turn: int = 0) -> Row:
    texts = _TEXTS[turn:] + _TEXTS[:turn]
    right = (number - turn) % 4
    return {**dict(zip(_LETTERS, texts, strict=True)), "answer": _LETTERS[right], "question": f"Which {number}?"}


def rows_of(benchmark: str) -> list[tuple[Row, int | None]]:
    """Rows as VLMEvalKit's TSV or the Hub's copy has them, each with the number of its picture."""
    numbers = range(8)
    if benchmark == "mmbench":
        return [
            ({"index": n + 1_000_000 * turn, "category": f"c{n % 2}", **_columns(n, turn)}, n % 4)
            for n in range(4)
            for turn in range(2)
        ]
    if benchmark == "mmmu":
        open_one = {"index": 7, "id": "validation_Math_7", "question": "How many?", "answer": "['17', '17.0']"}
        rows = [{"index": n, "id": f"validation_Art_{n}", **_columns(n)} for n in range(7)]
        return [(row, row["index"] % 4) for row in [*rows, open_one]]
    if benchmark in ("mmstar", "ai2d", "seedbench", "realworldqa"):
        return [
            ({"index": n, "category": f"c{n % 2}", "l2-category": f"l{n % 3}", **_columns(n)}, n % 4) for n in numbers
        ]
    if benchmark == "scienceqa":  # questions without a picture are among these
        return [({"index": n, "hint": "Look.", **_columns(n)}, n % 4 if n < 6 else None) for n in numbers]
    if benchmark == "mme":
        answers = ["Yes", "No"]
        return [
            ({"index": n, "category": ["color", "code_reasoning"][n // 4], "image_path": f"{n // 2}.png",
              "question": f"Is it {n}? Please answer yes or no.", "answer": answers[n % 2]}, n // 2)
            for n in numbers
        ]  # fmt: skip
    if benchmark == "hallusionbench":
        return [
            ({"category": "VD", "subcategory": "figure", "set_id": n // 4, "figure_id": n // 2 % 2,
              "question_id": n % 2, "question": f"Was it {n}?", "gt_answer": str(n % 2), "visual_input": "1"}, n // 2)
            for n in numbers
        ]  # fmt: skip
    if benchmark == "chartqa":
        return [
            ({"index": n, "question": f"How much {n}?", "answer": str(10 + n), "split": "test_human"}, n % 4)
            for n in numbers
        ]
    assert benchmark == "docvqa"
    return [({"index": n, "question": f"Who {n}?", "answer": f"['Mr Smith {n}', 'Smith']"}, n % 4) for n in numbers]


def right_answers(benchmark: str) -> list[tuple[str, str, str]]:
    """Of each row the question, the line of its first option ("" where it has none), and a right answer."""
    found = []
    for row, _ in rows_of(benchmark):
        said = str(row.get("answer", row.get("gt_answer")))
        if benchmark == "hallusionbench":
            said = ["No", "Yes"][int(said)]
        elif said.startswith("["):
            said = "Smith" if benchmark == "docvqa" else "17"
        found.append((row["question"], f"\nA. {row['A']}\n" if "A" in row else "", said))
    return found


def write_tsv(benchmark: str, path: Path) -> Path:
    """The table, with its pictures in base64."""
    rows = rows_of(benchmark)
    columns = ["image", *dict.fromkeys(name for row, _ in rows for name in row)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t")
        writer.writeheader()
        for row, number in rows:
            image = "" if number is None else base64.b64encode(picture(number)).decode()
            writer.writerow({"image": image, **row})
    return path


def write_predictions(path: Path, answers: dict[str, str]) -> Path:
    path.write_text(json.dumps(answers))
    return path
