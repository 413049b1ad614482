"""The gate's report: one page that opens anywhere, with the pictures of what was corrected and of what fell."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from fourfold.assistant.data_uri import to_data_uri
from fourfold.assistant.grounding import GroundedPhrase, draw, parse
from fourfold.eval.refinement.slices import Item, Slice
from fourfold.eval.report.pages import figure

_THUMBNAIL = 260  # pixels
_SHOWN = 60
"""Questions shown of the corrections, and as many of the rest."""


def gate_page(told: Mapping[str, Any], records: Sequence[Mapping[str, Any]], slices: Sequence[Slice]) -> str:
    """The page as HTML.

    Args:
        told: the gate's summary, with `made` and `training`.
        records: of every question, in the order of the slices: answers and scores before and after.
        slices: the same questions with their images.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = figure
    environment.filters["interval"] = _interval
    items = [item for part in slices for item in part.items]
    worse = {one["name"] for one in told["slices"] if one["verdict"] == "worse"}
    corrected, changed = [], []
    for record, item in zip(records, items, strict=True):
        before, after = record["scores"]
        if item.id:
            corrected.append((after - before, record, item))
        elif after < before:
            changed.append((record["slice"] not in worse, record, item))
    corrected.sort(key=lambda row: row[0])  # what was not learnt, or lost, first
    changed.sort(key=lambda row: row[0])
    return environment.get_template("gate.html.jinja").render(
        told=told,
        corrected=[_shown(record, item) for _, record, item in corrected[:_SHOWN]],
        lost=[_shown(record, item) for _, record, item in changed[:_SHOWN]],
        counts={"corrected": len(corrected), "lost": len(changed)},
    )


def _shown(record: Mapping[str, Any], item: Item) -> dict[str, Any]:
    image = item.image.open()
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    marked = [
        GroundedPhrase(label, boxes, 0, 0)
        for label, text in (("right", item.reference), ("before", record["before"]), ("after", record["after"]))
        if (boxes := tuple(box for grounded in parse(text).phrases for box in grounded.boxes))
    ]
    buffer = io.BytesIO()
    draw(image, marked).save(buffer, "JPEG", quality=75)
    return {**record, "picture": to_data_uri(buffer.getvalue())}


def _interval(estimate: Mapping[str, Any]) -> str:
    """`+12.5 [+3.1, +21.9]`."""
    text = f"{estimate['value']:+.1f}"
    return text if estimate["low"] is None else f"{text} [{estimate['low']:+.1f}, {estimate['high']:+.1f}]"
