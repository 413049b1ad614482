"""Before and after: ask about an object, paint it over, ask again (in the manner of BEAF, Ye et al. 2024).

A model that looks says yes before and no after. The four figures: true understanding (yes, then no), ignorance (no,
then yes), stubbornness (the same answer both times, split into yes and no), and, for an object that was left alone,
indecision (the answer changed although nothing about that object did).
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.eval.answerer import Answerer
from fourfold.eval.asking import Ask
from fourfold.eval.images import ImageFolder
from fourfold.eval.predictions import read_json
from fourfold.eval.probes import PaintOut
from fourfold.eval.prompting import PromptConfig
from fourfold.eval.runner import claim
from fourfold.eval.scorers.yes_no import first_verdict
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.prompts.benchmarks import benchmark_prompt
from fourfold.prompts.errors import UserError

_LEAST, _MOST = 0.01, 0.4  # share of the image that the removed object may cover: seen before, and something left after
_MARGIN = 0.04  # of the box's sides, painted over too, since boxes are tight


@dataclass(frozen=True)
class Removal:
    """One image with an object to take away and, where there is one, an object that stays."""

    image: str
    removed: str
    kept: str | None
    edit: PaintOut


def read_removals(path: Path, limit: int | None, seed: int) -> list[Removal]:
    """Removals from JSON Lines with `image`, `width`, `height` and `boxes` (`box`: x1, y1, x2, y2 pixels; `label`).

    All boxes of the removed label are painted over; labels must be exhaustive, or a second, unlabelled one stays. The
    kept object's boxes do not touch what is painted.
    """
    records = read_json(path, "boxes")
    records = [records] if isinstance(records, Mapping) else records
    if not isinstance(records, list) or not all(
        isinstance(r, Mapping) and {"image", "boxes"} <= set(r) for r in records
    ):
        raise UserError(f"{path} has no boxes: expected a record a line with image, width, height and boxes")
    rng = random.Random(seed)
    removals = []
    for record in records:
        found = _removal(record, rng)
        if found is not None:
            removals.append(found)
    if not removals:
        raise UserError(f"{path}: no image has a labelled object of a size that can be painted over")
    rng.shuffle(removals)
    return removals[:limit]


def _removal(record: Mapping[str, Any], rng: random.Random) -> Removal | None:
    width, height = record["width"], record["height"]
    by_label: dict[str, list[tuple[int, int, int, int]]] = {}
    for entry in record["boxes"]:
        x1, y1, x2, y2 = entry["box"]
        dx, dy = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
        by_label.setdefault(entry["label"], []).append((int(x1 - dx), int(y1 - dy), int(x2 + dx) + 1, int(y2 + dy) + 1))
    fitting = []
    for label, boxes in by_label.items():
        share = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes) / (width * height)
        if _LEAST <= share <= _MOST:
            fitting.append(label)
    if not fitting:
        return None
    removed = rng.choice(sorted(fitting))
    painted = by_label[removed]
    kept = [
        label
        for label, boxes in sorted(by_label.items())
        if label != removed and not any(_touch(a, b) for a in boxes for b in painted)
    ]
    return Removal(record["image"], removed, rng.choice(kept) if kept else None, PaintOut(tuple(painted)))


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def removal_asks(removals: Sequence[Removal], files: Mapping[str, Path], wording: str) -> list[Ask]:
    """Before and after, about the removed object and about the kept one; keys end in `/removed/before` and so on."""
    asks = []
    for removal in removals:
        for role, label in (("removed", removal.removed), ("kept", removal.kept)):
            if label is None:
                continue
            article = "an" if label[0] in "aeiou" else "a"
            prompt = benchmark_prompt("pope", wording, question=f"Is there {article} {label} in the image?")
            for time, edit in (("before", None), ("after", removal.edit)):
                asks.append(Ask(f"{removal.image}/{role}/{time}", prompt, files[removal.image], edit=edit))
    return asks


def removal_figures(removals: Sequence[Removal], answers: Mapping[str, str | None]) -> dict[str, Estimate]:
    """The figures in percent; a pair with an answer that is neither yes nor no counts as `unreadable` alone."""
    pairs = {
        (removal.image, role): (
            first_verdict(answers.get(f"{removal.image}/{role}/before") or ""),
            first_verdict(answers.get(f"{removal.image}/{role}/after") or ""),
        )
        for removal in removals
        for role in ("removed", "kept")
        if role == "removed" or removal.kept is not None
    }
    removed = [(image, pair) for (image, role), pair in pairs.items() if role == "removed"]
    kept = [(image, pair) for (image, role), pair in pairs.items() if role == "kept"]

    def share(wanted: Sequence[tuple[bool, bool]]) -> Estimate:
        return clustered_mean([float(pair in wanted) for _, pair in removed], [image for image, _ in removed])

    figures = {
        "true understanding": share([(True, False)]),
        "ignorance": share([(False, True)]),
        "stubbornness": share([(True, True), (False, False)]),
        "stubbornness/yes": share([(True, True)]),
        "stubbornness/no": share([(False, False)]),
        "unreadable": clustered_mean([float(None in pair) for _, pair in removed], [image for image, _ in removed]),
    }
    if kept:
        changed = [float(before is not after) for _, (before, after) in kept]
        figures["indecision"] = clustered_mean(changed, [image for image, _ in kept])
    return figures


def run_beaf(
    answerer: Answerer,
    boxes: Path,
    images: Path,
    out: Path,
    *,
    manner: PromptConfig,
    limit: int | None,
    seed: int,
    skip_missing: bool = False,
) -> dict[str, Any] | None:
    """Ask before and after and return the figures as a JSON-ready object; None in helpers of `accelerate launch`.

    Raises:
        UserError: the files do not fit together, or nobody answers.
    """
    folder = ImageFolder(images)
    removals = read_removals(boxes, None, seed)
    missing = set(folder.missing(removal.image for removal in removals))
    if missing and not skip_missing:
        raise UserError(
            f"{len(missing)} images of {boxes.name} are not under {images}, such as {min(missing)}; "
            "--skip-missing-images leaves them out"
        )
    removals = [removal for removal in removals if removal.image not in missing][:limit]
    files = {removal.image: path for removal in removals if (path := folder.find(removal.image))}
    if not files:
        raise UserError(f"not one image of {boxes.name} is under {images}")
    configuration = {
        "suite": "beaf",
        "model": answerer.identity(),
        "wording": manner.wording,
        "max_tokens": manner.max_tokens,
        "seed": seed,
        "recipe": manner.recipe,
        "template": dict(manner.template),
        "file": boxes.name,
        "file_sha256": hashlib.sha256(boxes.read_bytes()).hexdigest(),
    }
    claim(out, configuration)
    asks = removal_asks(removals, files, manner.wording)
    records = answerer.answer(asks, out, configuration, manner)
    if records is None:
        return None
    answers = {ask.key: records.get(ask.key, {}).get("answer") for ask in asks}
    figures = removal_figures(removals, answers)
    return {
        "suite": "beaf",
        "configuration": configuration,
        "images_missing": len(missing),
        "failed": sum(answer is None for answer in answers.values()),
        "confidence": 0.95,
        "figures": {name: figure.to_json() for name, figure in figures.items()},
    }
