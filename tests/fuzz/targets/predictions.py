"""Files of predictions, as strangers' programs write them."""

import json
from pathlib import Path

from fourfold.eval.predictions import join, read_predictions
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Target

_FILES = (
    [{"question_id": 1, "answer": "yes"}, {"question_id": 2, "answer": "a dog"}],
    {"1": "yes", "2": ["a", "b"], "3": [1, 2, 3, 4], "4": {"answer": "x", "score": 0.5}},
    [{"id": "a", "bbox": [1, 2, 3, 4]}, {"id": "b", "boxes": [[1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]]}],
    [{"questionId": "7", "prediction": "<think>no</think> Yes", "answer": "yes"}],
    {"predictions": [{"id": 3, "scores": [-1.5, -2.0]}, {"id": 4, "proba": 0.25}]},
    [{"question": "Is there a dog in the image?", "answer": "yes"}],
    [{"id": 1, "output": '[{"bbox_2d": [1, 2, 3, 4], "label": "dog"}]', "image": "1.jpg"}],
    {"results": [{"image": "x.jpg", "response": [{"bbox_2d": [1, 2, 3, 4]}]}]},
)


def predictions(directory: Path) -> Target:
    """Read whole or as JSON Lines, and joined with the questions."""
    directory.mkdir(parents=True, exist_ok=True)
    seeds = [json.dumps(content).encode() for content in _FILES]
    seeds += [b"\n".join(json.dumps(row).encode() for row in rows) for rows in _FILES if isinstance(rows, list)]

    def read(data: bytes) -> None:
        path = directory / ("predictions.jsonl" if len(data) % 2 else "predictions.json")
        path.write_bytes(data)
        found = read_predictions(path)
        join(found, sorted({prediction.id for prediction in found}))

    return Target(seeds, read, Mutator.json)
