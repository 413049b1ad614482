"""The same answers as logs of lmms-eval, VLMEvalKit and Inspect, in the forms that these write."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

LETTERS = "ABCD"
TEXTS = ["red", "green", "blue", "white"]
COUNT = 60


def questions() -> list[dict[str, Any]]:
    """Multiple-choice questions on twenty images, with answers a third of which only a lenient rule reads."""
    rows = []
    for number in range(COUNT):
        right = LETTERS[number % 4]
        said = right if number % 5 else LETTERS[(number + 1) % 4]
        form = ("{}", "The answer is {}", "I would say it is option {}, if I look at the picture closely here")[
            number % 3
        ]
        rows.append(
            {
                "index": number,
                "question": f"Which colour {number}?",
                **dict(zip(LETTERS, TEXTS, strict=True)),
                "answer": right,
                "category": f"c{number % 2}",
                "l2-category": f"l{number % 3}",
                "image_path": f"{number // 3}.png",
                "prediction": form.format(said),
            }
        )
    return rows


def vlmevalkit(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Its prediction file, by pandas, as it writes them."""
    table = pd.DataFrame(rows)
    if path.suffix == ".xlsx":
        table.to_excel(path, index=False)
    elif path.suffix == ".tsv":
        table.to_csv(path, sep="\t", index=False, quoting=1)
    else:
        path.write_text(json.dumps(table.to_dict("records"), indent=4))
    return path


def lmms_eval(path: Path, rows: list[dict[str, Any]], *, doc: bool = False) -> Path:
    """Its `--log_samples` file: without the question's own row since 0.3, with it before."""
    lines = []
    for row in rows:
        options = "\n".join(f"{letter}. {row[letter]}" for letter in LETTERS)
        prompt = f"{row['question']}\n{options}\nAnswer with the option's letter from the given choices directly."
        record: dict[str, Any] = {
            "doc_id": row["index"],
            "target": row["answer"],
            "filtered_resps": row["prediction"],
            "token_counts": [None],
            "doc_hash": "0",
            "average": {"question_id": row["index"], "l2_category": row["l2-category"], "score": 1.0},
            "input": prompt,
        }
        if doc:
            record = {
                **record,
                "doc": {n: v for n, v in row.items() if n != "prediction"},
                "resps": [[row["prediction"]]],
            }
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n")
    return path


def inspect(path: Path, rows: list[dict[str, Any]]) -> Path:
    """By Inspect's own types and writer."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    samples = [
        EvalSample(
            id=row["index"],
            epoch=1,
            input=row["question"],
            choices=[row[letter] for letter in LETTERS],
            target=row["answer"],
            output=ModelOutput.from_content("mock", row["prediction"]),
            scores={
                "choice": Score(value="C" if row["prediction"] == row["answer"] else "I", answer=row["prediction"])
            },
            metadata={"image_path": row["image_path"], "l2-category": row["l2-category"]},
        )
        for row in rows
    ]
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00", task="mmstar", dataset=EvalDataset(), model="mock", config=EvalConfig()
    )
    write_eval_log(EvalLog(eval=spec, status="success", samples=samples), str(path))
    return path
