"""Masks within true boxes, by the small head: against exact ones of scenes, and against MobileSAM's of photos."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fourfold.assistant.images import load_image_file
from fourfold.assistant.patches.mask_head import MaskHead
from fourfold.assistant.patches.mask_training import Masked, scene_masks
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.tools import segment
from fourfold.assistant.training.data.photos import read_photos
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
