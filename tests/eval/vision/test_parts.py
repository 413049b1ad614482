"""Figures of parts, on photos of people made of coloured squares."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.readouts.domain import Moments
from fourfold.assistant.readouts.features import normalised
from fourfold.eval.vision.parts import measure_parts

PAINT = {"hat": (230, 30, 30), "shirt": (30, 200, 30), "shoe": (40, 40, 230)}


def see(image: Image.Image) -> np.ndarray:
    cells = np.asarray(image, np.float32).reshape(8, 8, 8, 8, 3).mean((1, 3))
    return normalised(np.concatenate([cells, cells**2 / 100, 255 - cells], -1))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng, lines = np.random.default_rng(0), []
    for number in range(12):
        picture = Image.fromarray(rng.integers(90, 130, (64, 64, 3), dtype=np.uint8))
        phrases = []
        places = rng.permutation(9)[:3]
        for place, (name, colour) in zip(places, PAINT.items(), strict=True):
            x, y = int(place % 3) * 24, int(place // 3) * 24
            picture.paste(colour, (x, y, x + 16, y + 16))
            box = [x, y, x + 16, y + 16]
            phrases.append(
                {"caption": 0, "phrase": f"a {name}", "span": [0, 1], "boxes": [box], "types": ["x"], "entity": name}
            )
        picture.save(tmp_path / f"{number}.png")
        split = "heldout" if number >= 6 else "train"
        lines.append(
            json.dumps(
                {"id": str(number), "image": f"{number}.png", "width": 64, "height": 64, "split": split}
                | {"captions": ["A person ."], "phrases": phrases}
            )
        )
    (tmp_path / "flickr8k_entities.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_parts_shown_once_are_told_apart_where_their_places_change(photos: Path) -> None:
    moments = Moments(9)
    for number in range(6):
        with Image.open(photos / f"{number}.png") as image:
            moments.add(see(image.convert("RGB")))
    rows = measure_parts(see, photos, moments.domain("photos").patches, references=4, on_progress=lambda event: None)
    found = {(row.of, row.figure): row.value for row in rows}
    assert found["parts: shown once", "patches told apart"].value > 95
    assert found["parts: shown once", "peak in a true box"].value > 95
    assert found["parts: the same place", "peak in a true box"].value < 60
    assert found["parts: shown once", "peak in a true box"].n == 4 * 6 * 3
