"""How well the detector finds and counts on annotated photos."""

import time
from collections.abc import Sequence
from pathlib import Path

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import load_image_file
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.tools import count, detect
from fourfold.assistant.training.data.photos import EXHAUSTIVE, Photo, read_photos
from fourfold.eval.scorers.boxes import match_boxes
from fourfold.eval.statistics import clustered_mean
from fourfold.eval.vision.row import Row

_LARGE = 0.05  # part of a picture


def measure_detector(directory: Path, limit: int | None, on_progress: OnProgress) -> list[Row]:
    """Precision, recall, counts and seconds on the photos of which every object of a class is annotated.

    COCO's photos are of the detector's own training set, VOC's are not.

    Args:
        directory: of the photos for teaching.
        limit: photos a source; None for all.
    """
    rows = []
    for source in EXHAUSTIVE:
        photos = read_photos(directory, [source])[:limit]
        classes = {label for photo in photos for thing in photo.things for label in thing.names}
        study = _Study(source, classes)
        for place, photo in enumerate(photos):
            on_progress(Progress(f"Detecting in {source}", place, len(photos)))
            study.add(directory, photo)
        on_progress(Progress(f"Detecting in {source}", len(photos), len(photos)))
        rows += study.rows()
    return rows


class _Study:
    def __init__(self, source: str, classes: set[str]) -> None:
        self._source, self._classes = source, classes
        # Of each figure, values and the photos that they belong to.
        self._values: dict[str, tuple[list[float], list[str]]] = {}

    def _tell(self, figure: str, photo: Photo, values: Sequence[float]) -> None:
        kept, photos = self._values.setdefault(figure, ([], []))
        kept += values
        photos += [photo.id] * len(values)

    def add(self, directory: Path, photo: Photo) -> None:
        image = load_image_file(directory / photo.path)
        started = time.perf_counter()
        found = detect(image).found
        self._tell("seconds a photo", photo, [time.perf_counter() - started])
        for label in sorted(self._classes):
            boxes = [one.box for one in found if one.label == label]
            true = [box for thing in photo.things if label in thing.names for box in thing.boxes]
            self._tell("precision", photo, _found(boxes, true))
            self._tell("recall", photo, _found(true, boxes))
            self._tell("recall, over 5 % of the picture", photo, _found([b for b in true if b.area > _LARGE], boxes))
            self._tell("recall, smaller things", photo, _found([b for b in true if b.area <= _LARGE], boxes))
            if true:
                counted = count(image, label)
                assert counted.number is not None
                off = abs(counted.number - len(true))
                self._tell("count exact", photo, [off == 0])
                self._tell("count within one", photo, [off <= 1])
                if counted.number and counted.at_least:
                    self._tell('"at least" holds', photo, [counted.number <= len(true)])
                elif counted.number:
                    self._tell('count exact where it does not say "at least"', photo, [off == 0])

    def rows(self) -> list[Row]:
        found = []
        for figure, (values, photos) in self._values.items():
            if not values:  # nothing of the sort in these photos
                continue
            seconds = figure.startswith("seconds")
            options = {"scale": 1.0, "ceiling": None} if seconds else {}
            found.append(Row(self._source, figure, clustered_mean(values, photos, **options)))  # type: ignore[arg-type]
        return found


def _found(boxes: Sequence[Box], others: Sequence[Box]) -> list[float]:
    """For each box 1 or 0, as many ones as find one of the others of their own at an IoU of 0.5."""
    hits = match_boxes(boxes, others, overlap=Box.iou)
    return [1.0] * hits + [0.0] * (len(boxes) - hits)
