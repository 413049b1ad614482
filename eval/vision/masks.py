"""Masks within true boxes: MobileSAM's against the exact ones of scenes, the small head's against both."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fourfold.assistant.images import load_image_file
from fourfold.assistant.patches.mask_head import MaskHead
from fourfold.assistant.patches.mask_training import Masked, pixels_of, scene_masks
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.tools import segment
from fourfold.assistant.training.data.photos import read_photos
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.eval.statistics import clustered_mean
from fourfold.eval.vision.row import Row, See

_LEAST = 0.01  # of a picture; smaller things are less than a patch
_MOST = 5  # things a photo


def photo_masks(see: See, directory: Path, source: str, number: int, on_progress: OnProgress) -> Iterator[Masked]:
    """Photos of a source with MobileSAM's masks in the annotators' boxes, the largest things of each."""
    photos = read_photos(directory, [source])
    told = 0
    for photo in photos:
        boxes = [box for thing in photo.things for box in thing.boxes if box.area > _LEAST]
        boxes = sorted(boxes, key=lambda box: -box.area)[:_MOST]
        if not boxes:
            continue
        if told == number:
            break
        on_progress(Progress(f"MobileSAM on {source}", told + 1, number))
        told += 1
        image = load_image_file(directory / photo.path)
        yield Masked(see(image), image, boxes, [segment(image, box=box).pixels for box in boxes])


def measure_segmenter(limit: int, on_progress: OnProgress) -> list[Row]:
    """IoU of MobileSAM's masks in true boxes with the exact pixels of rendered scenes, and seconds.

    Args:
        limit: scenes.
    """
    overlaps: list[float] = []
    first: list[float] = []
    later: list[float] = []
    pictures: list[int] = []
    for number in range(limit):
        on_progress(Progress("Segmenting scenes", number, limit))
        scene = make_scene(f"mask test {number}")
        image = scene.render()
        for place, item in enumerate(scene.items):
            started = time.perf_counter()
            found = segment(image, box=item.box).pixels
            (later if place else first).append(time.perf_counter() - started)
            overlaps.append(_iou(found, pixels_of(item)))
            pictures.append(number)
    on_progress(Progress("Segmenting scenes", limit, limit))
    rows = [
        Row("segment: scenes, exact", "mean IoU", clustered_mean(overlaps, pictures)),
        Row("segment", "seconds, first mask of a picture", clustered_mean(first, range(limit), scale=1, ceiling=None)),
    ]
    if later:
        each = clustered_mean(later, range(len(later)), scale=1, ceiling=None)
        rows.append(Row("segment", "seconds, every other mask", each))
    return rows


def measure_masks(head: MaskHead, see: See, directory: Path, limit: int, on_progress: OnProgress) -> list[Row]:
    """IoU of the head's masks, and of the whole box taken for one.

    Args:
        head: taught on other pictures: COCO's photos and scenes of another name.
        limit: photos and scenes.
    """
    scenes = _judged(head, scene_masks(see, "mask test", limit))
    photos = _judged(head, photo_masks(see, directory, "voc2012_100", limit, on_progress))
    rows = []
    for name, found in (("masks: scenes, exact", scenes), ("masks: VOC, against MobileSAM", photos)):
        pictures = [place for place, _, _ in found]
        for figure, values in (
            ("mean IoU", [mask for _, mask, _ in found]),
            ("IoU of 0.75 or more", [float(mask >= 0.75) for _, mask, _ in found]),
            ("mean IoU of the box", [box for _, _, box in found]),
        ):
            rows.append(Row(name, figure, clustered_mean(values, pictures)))
    return rows


def _judged(head: MaskHead, pictures: Iterable[Masked]) -> list[tuple[int, float, float]]:
    """(picture, IoU of the head's mask, IoU of the box) of each thing."""
    found = []
    for place, one in enumerate(pictures):
        height, width = one.masks[0].shape
        for box, true, mask in zip(one.boxes, one.masks, head.masks(one.features, one.image, one.boxes), strict=True):
            whole = np.zeros_like(true)
            x1, y1, x2, y2 = (round(side) for side in box.to_pixels(width, height))
            whole[y1:y2, x1:x2] = True
            found.append((place, _iou(mask, true), _iou(whole, true)))
    return found


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))
