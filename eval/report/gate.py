"""The gate's report: one page that opens anywhere, with the pictures of what was corrected and of what fell."""

from collections.abc import Mapping, Sequence
from typing import Any

from fourfold.assistant.grounding import GroundedPhrase, draw, parse
from fourfold.eval.report.render import page, thumbnail
from fourfold.eval.task import Sample

_THUMBNAIL = 260  # pixels
_SHOWN = 60
"""Questions shown of the corrections, and as many of the rest."""


def gate_page(told: Mapping[str, Any], records: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> str:
    """The page as HTML.

    Args:
        told: the gate's summary, with `made` and `training`.
        records: of every question: answers and scores before and after.
        samples: the same questions with their images.
    """
    worse = {one["name"] for one in told["slices"] if one["verdict"] == "worse"}
    corrected, changed = [], []
    for record, sample in zip(records, samples, strict=True):
        before, after = record["scores"]
        if record["id"]:
            corrected.append((after - before, record, sample))
        elif after < before:
            changed.append((record["slice"] not in worse, record, sample))
    corrected.sort(key=lambda row: row[0])  # what was not learnt, or lost, first
    changed.sort(key=lambda row: row[0])
    return page(
        "gate.html.jinja",
        told=told,
        corrected=[_shown(record, sample) for _, record, sample in corrected[:_SHOWN]],
        lost=[_shown(record, sample) for _, record, sample in changed[:_SHOWN]],
        counts={"corrected": len(corrected), "lost": len(changed)},
    )


def _shown(record: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    image = sample.picture()
    assert image is not None
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))  # before drawing, or the lines would vanish
    texts = {"right": record["reference"], "before": record["before"], "after": record["after"]}
    marked = [GroundedPhrase(label, boxes, 0, 0) for label, text in texts.items() if (boxes := parse(text).boxes)]
    return {**record, "picture": thumbnail(draw(image, marked), _THUMBNAIL)}
