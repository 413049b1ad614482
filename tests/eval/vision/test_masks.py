"""Figures of masks, with a segmenter that a test scripts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.patches.mask_head import MaskHead
from fourfold.assistant.patches.mask_training import learn_mask_head, pixels_of, scene_masks
from fourfold.assistant.progress import Progress
from fourfold.assistant.tools.results import Mask
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.eval.vision import masks
from fourfold.eval.vision.masks import measure_masks, measure_segmenter, photo_masks


def see(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((16, 16)), np.float32) / 255


def boxed(image: Image.Image, box: Box) -> Mask:
    """A segmenter that takes the whole box for the thing."""
    pixels = np.zeros((image.height, image.width), bool)
    x1, y1, x2, y2 = (round(side) for side in box.to_pixels(image.width, image.height))
    pixels[y1:y2, x1:x2] = True
    return Mask.of(pixels, 1.0)


def test_pixels_of_a_shape_fill_its_box_as_far_as_the_shape_does() -> None:
    items = [item for number in range(20) for item in make_scene(f"pixels {number}").items]
    for item in items:
        pixels = pixels_of(item)
        assert Mask.of(pixels, 1.0).box.iou(item.box) > 0.9
    [ring] = [item for item in items if item.shape == "ring"][:1]
    assert not pixels_of(ring)[round(ring.y), round(ring.x)]


def test_the_segmenter_is_measured_against_exact_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "segment", boxed)
    found = {row.figure: row.value for row in measure_segmenter(3, lambda event: None)}
    scenes = [make_scene(f"mask test {number}") for number in range(3)]
    shares = [
        pixels_of(item).sum() / (pixels_of(item) | boxed(scene.render(), item.box).pixels).sum()
        for scene in scenes
        for item in scene.items
    ]
    assert found["mean IoU"].value == pytest.approx(100 * np.mean(shares), abs=0.5)
    assert found["mean IoU"].n == sum(len(scene.items) for scene in scenes)


def test_photos_give_their_largest_things_with_the_segmenter_s_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "segment", boxed)
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    boxes = [{"box": [0, 0, 5 + 10 * place, 50], "label": "dog"} for place in range(7)]
    boxes.append({"box": [0, 0, 5, 5], "label": "cat"})
    line = {"id": "a", "image": "a.png", "width": 100, "height": 100, "split": "train", "boxes": boxes}
    (tmp_path / "coco.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps({**line, 'id': 'b', 'boxes': boxes[-1:]})}")
    [one] = photo_masks(see, tmp_path, "coco", 5, lambda event: None)
    assert [round(box.x2 * 100) for box in one.boxes] == [65, 55, 45, 35, 25]
    assert one.masks[0].sum() == 65 * 50
    (tmp_path / "voc2012_100.jsonl").write_text(json.dumps(line))
    rows = measure_masks(MaskHead(3).eval(), see, tmp_path, 2, lambda event: None)
    found = {(row.of, row.figure): row.value.value for row in rows}
    assert found["masks: VOC, against MobileSAM", "mean IoU of the box"] == 100


def test_teaching_makes_the_head_better() -> None:
    told: list[Progress] = []
    taught = learn_mask_head(list(scene_masks(see, "teach", 4)), steps=14, on_progress=told.append)
    losses = [event.loss or 0.0 for event in told]
    assert len(losses) == 14
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert not taught.training
