"""One annotated photo, and the same parts in others: clothes and limbs of the photos' phrases."""

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fourfold.assistant.english import words_in
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import load_image_file
from fourfold.assistant.patches.parts import Parts
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.readouts.domain import Spread
from fourfold.assistant.readouts.features import coverage
from fourfold.assistant.training.data.photos import Photo, read_photos
from fourfold.eval.statistics import clustered_mean
from fourfold.eval.vision.row import Row, See

_SAME = {"jeans": "pants", "cap": "hat", "boot": "shoe", "sunglasses": "glasses", "coat": "jacket"}
_NAMES = words_in("shirt pants hat helmet shoe hair face jacket shorts glasses hand arm leg head dress glove vest")
_TARGETS = 6  # photos that each annotated one is tried on
_Boxes = dict[str, list[Box]]


def measure_parts(see: See, directory: Path, spread: Spread, references: int, on_progress: OnProgress) -> list[Row]:
    """How well parts that one photo shows are told apart and pointed at in others.

    Of patches that lie in the box of exactly one of the parts that a photo has: the share that the scores give to it
    among the parts that are there, which the same place in the annotated photo does as well as chance.

    Args:
        see: the tower.
        directory: of the photos for teaching; those held out are tried.
        spread: of the patches of photos.
        references: photos that are taken for annotated, one after the other.
    """
    photos = {photo.id: photo for photo in read_photos(directory, ["flickr8k_entities"])}
    boxes = {name: _parts_of(photo) for name, photo in photos.items()}
    rng = random.Random(0)
    shown = [name for name, of in boxes.items() if len(of) >= 3 and not photos[name].held_out]
    tried = [name for name, of in boxes.items() if len(of) >= 2 and photos[name].held_out]
    values: dict[str, tuple[list[float], list[str]]] = defaultdict(lambda: ([], []))
    kept: dict[str, np.ndarray] = {}

    def features_of(name: str) -> np.ndarray:
        if name not in kept:
            kept[name] = see(load_image_file(directory / photos[name].path))
        return kept[name]

    chosen = rng.sample(shown, min(references, len(shown)))
    for number, reference in enumerate(chosen):
        on_progress(Progress("Finding parts", number, len(chosen)))
        features = features_of(reference)
        masks = _masks(boxes[reference], *features.shape[:2])
        parts = Parts(features, masks, spread)
        fitting = [name for name in tried if len(boxes[name].keys() & masks.keys()) >= 2]
        for name in rng.sample(fitting, min(_TARGETS, len(fitting))):
            scores = dict(zip(parts.names, parts.scores(features_of(name)), strict=True))
            for how, found in (("shown once", scores), ("the same place", masks)):
                for figure, some in _judged(found, boxes[name]).items():
                    kept_values, pictures = values[f"{figure}|{how}"]
                    kept_values += some
                    pictures += [name] * len(some)
    on_progress(Progress("Finding parts", len(chosen), len(chosen)))
    return [Row(f"parts: {key.split('|')[1]}", key.split("|")[0], clustered_mean(*of)) for key, of in values.items()]


def _parts_of(photo: Photo) -> _Boxes:
    found: _Boxes = {}
    for thing in photo.things:
        for noun in thing.nouns[:1]:
            if (name := _SAME.get(noun, noun)) in _NAMES:
                found.setdefault(name, []).extend(thing.boxes)
    return found


def _cover(boxes: Sequence[Box], rows: int, columns: int) -> np.ndarray:
    return np.max([coverage(box, rows, columns) for box in boxes], axis=0)


def _masks(boxes: _Boxes, rows: int, columns: int) -> dict[str, np.ndarray]:
    """What each part covers of the patches that no other part has half of; all that it covers where none is left."""
    cover = {name: _cover(of, rows, columns) for name, of in boxes.items()}
    found = {}
    for name, mask in cover.items():
        others = np.max([other for key, other in cover.items() if key != name], axis=0)
        own = np.where(others < 0.5, mask, 0)
        found[name] = own if own.max() >= 0.5 else mask
    return {name: mask for name, mask in found.items() if mask.any()}


def _judged(scores: dict[str, np.ndarray], boxes: _Boxes) -> dict[str, list[float]]:
    names = [name for name in scores if name in boxes]
    covers = np.stack([_cover(boxes[name], *scores[name].shape) for name in names])
    inside = covers >= 0.5
    sole = inside.sum(0) == 1
    guessed = np.stack([scores[name] for name in names]).argmax(0)
    right = (guessed == inside.argmax(0))[sole]
    peaks = [float(cover.flat[scores[name].argmax()] > 0.3) for name, cover in zip(names, covers, strict=True)]
    return {"patches told apart": [float(right.mean())] if right.size else [], "peak in a true box": peaks}
