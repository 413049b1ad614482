"""Figures of the detector, from photos that a test writes and a detector that it scripts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.tools import detector
from fourfold.eval.vision.detector import measure_detector


def write_photo(directory: Path, source: str, *things: tuple[str, tuple[float, float, float, float]]) -> None:
    Image.new("RGB", (100, 100), "grey").save(directory / f"{source}.png")
    boxes = [{"box": box, "label": label} for label, box in things]
    line = {
        "id": f"{source}/1",
        "image": f"{source}.png",
        "width": 100,
        "height": 100,
        "split": "train",
        "boxes": boxes,
    }
    (directory / f"{source}.jsonl").write_text(json.dumps({**line, "labels": sorted({label for label, _ in things})}))


def test_precision_recall_and_counts_are_those_of_the_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big, small, other = (0, 0, 50, 50), (60, 60, 70, 70), (60, 0, 100, 40)
    write_photo(tmp_path, "coco", ("dog", big), ("dog", small), ("cat", other))
    write_photo(tmp_path, "voc2012_100", ("aeroplane", big))

    def forward(pixels: np.ndarray, part: Box) -> list[detector._Seen]:
        if part != Box(0, 0, 1, 1):
            return []
        return [
            detector._Seen("dog", Box(0, 0, 0.5, 0.55), 0.9),  # right
            detector._Seen("cat", Box(0.1, 0.6, 0.4, 0.9), 0.8),  # elsewhere
            detector._Seen("airplane", Box(0, 0, 0.5, 0.5), 0.9),
        ]

    monkeypatch.setattr(detector, "_forward", forward)
    detector._SEEN.clear()
    found = {(row.of, row.figure): row.value.value for row in measure_detector(tmp_path, None, lambda event: None)}
    assert found["coco", "precision"] == 50  # an airplane is none of the classes that these photos are annotated with
    assert found["coco", "recall"] == pytest.approx(100 / 3)
    assert found["coco", "recall, over 5 % of the picture"] == 50
    assert found["coco", "recall, smaller things"] == 0
    assert found["coco", "count exact"] == 50  # one of two dogs, one of one cat
    assert found["coco", "count within one"] == 100
    assert found["voc2012_100", "count exact"] == 100
    assert 0 < found["coco", "seconds a photo"] < 10
