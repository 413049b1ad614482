"""Which corrections a training learns from, and which it leaves for the gate to measure by."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.assistant.refine.record import Correction, to_fields
from fourfold.assistant.refine.samples import TrainingTarget

_LEAST_TO_SPLIT = 4  # images; of fewer none can be spared


@dataclass(frozen=True)
class Split:
    """Lessons on two sides; no image is on both."""

    learnt: tuple[TrainingTarget, ...]
    held_out: tuple[TrainingTarget, ...]


def split_by_image(lessons: Sequence[TrainingTarget], held_out: float) -> Split:
    """Leave the lessons of a part of the images out.

    Images are ordered by their hash and the first of them left out, so that a new correction hardly ever changes the
    side of an old one, and an image that was left out of one training is left out of the next.

    Args:
        lessons: of corrected answers.
        held_out: part of the images, 0..1; of fewer than four images none is left out.
    """
    order = sorted(
        {lesson.correction.image for lesson in lessons}, key=lambda image: hashlib.sha256(image.encode()).digest()
    )
    kept = round(held_out * len(order)) if len(order) >= _LEAST_TO_SPLIT else 0
    out = frozenset(order[:kept])
    return Split(
        learnt=tuple(lesson for lesson in lessons if lesson.correction.image not in out),
        held_out=tuple(lesson for lesson in lessons if lesson.correction.image in out),
    )


def data_hash(corrections: Sequence[Correction]) -> str:
    """SHA-256 (hex) of all that is learnt from these records, whatever their order; ids and times do not count."""
    rows = []
    for correction in corrections:
        fields = to_fields(correction)
        taught = {name: fields[name] for name in ("messages", "rejected", "chosen", "boxes", "verdict")}
        rows.append(json.dumps({"image": correction.image, **taught}, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
