"""One sample as the report shows it: readable without the benchmark's files."""

from collections import Counter
from pathlib import Path
from typing import Any

from fourfold.eval.asking import Ask, right_answer
from fourfold.eval.predictions import Prediction
from fourfold.eval.score import Result
from fourfold.eval.tasks import Drawing, Item

_LONGEST_ANSWER = 4000


def sample_record(
    item: Item,
    ask: Ask,
    file: Path | None,
    prediction: Prediction | None,
    record: dict[str, Any],
    result: Result | None,
    drawing: Drawing | None,
) -> dict[str, Any]:
    """A JSON-ready record; `score` is the headline's, 0..1, boxes are in pixels of the annotated image."""
    answer = prediction.answer if prediction is not None else None
    shown: dict[str, Any] = {
        "id": item.id,
        "image": item.image,
        "file": str(file) if file else None,
        "shown_file": str(ask.image) if ask.image else None,
        "question": item.question,
        "prompt": ask.prompt,
        "reference": reference_text(item),
        "answer": answer[:_LONGEST_ANSWER] if answer is not None else None,
        "groups": dict(item.groups),
    }
    if item.candidates:
        shown["candidates"] = list(item.candidates)
        shown["scores"] = record.get("scores")
    if result is not None:
        shown["score"] = result.headline.by_item.get(item.id)
    if record.get("error"):
        shown["error"] = record["error"]
    if drawing is not None:
        shown["size"] = drawing.size
        shown["boxes"] = {"truth": drawing.truth, "predicted": drawing.predicted}
    return shown


def reference_text(item: Item) -> str:
    """What would have been right, in words; annotators' answers with their number."""
    if isinstance(item.reference, tuple):
        return ", ".join(f"{answer} ({count})" for answer, count in Counter(item.reference).most_common())
    return right_answer(item)
