"""Before and after: ask about an object, paint it over, ask again (in the manner of BEAF, Ye et al. 2024).

A model that looks says yes before and no after. The four figures: true understanding (yes, then no), ignorance (no,
then yes), stubbornness (the same answer both times, split into yes and no), and, for an object that was left alone,
indecision (the answer changed although nothing about that object did).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold.eval.benchmarks.benchmark import read_records
from fourfold.eval.controls import PaintOut
from fourfold.eval.images import ImageFolder
from fourfold.eval.run import main_process
from fourfold.eval.scorers.yes_no import first_verdict
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.eval.task import FileImage, Sample
from fourfold.eval.tasks.benchmark_run import RunOptions, ask
from fourfold.prompts.benchmarks import benchmark_prompt
from fourfold.prompts.errors import UserError

_LEAST, _MOST = 0.01, 0.4  # share of the image that the removed object may cover: seen before, and something left after
_CONFIGURATION = ("suite", "model", "wording", "max_tokens", "seed", "recipe", "template", "file", "file_sha256")
_MARGIN = 0.04  # of the box's sides, painted over too, since boxes are tight


@dataclass(frozen=True)
class Removal:
    """One image with an object to take away and, where there is one, an object that stays."""

    image: str
    removed: str
    kept: str | None
    edit: PaintOut


def read_removals(path: Path, seed: int) -> list[Removal]:
    """Removals from JSON Lines with `image`, `width`, `height` and `boxes` (`box`: x1, y1, x2, y2 pixels; `label`).

    All boxes of the removed label are painted over; labels must be exhaustive, or a second, unlabelled one stays. The
    kept object's boxes do not touch what is painted.
    """
    records = [record for _, record in read_records(path, "BEAF", {"image", "width", "height", "boxes"})]
    rng = random.Random(seed)
    removals = [found for record in records if (found := _removal(record, rng)) is not None]
    if not removals:
        raise UserError(f"{path}: no image has a labelled object of a size that can be painted over")
    rng.shuffle(removals)
    return removals


def _removal(record: Mapping[str, Any], rng: random.Random) -> Removal | None:
    width, height = record["width"], record["height"]
    by_label: dict[str, list[tuple[int, int, int, int]]] = {}
    for entry in record["boxes"]:
        x1, y1, x2, y2 = entry["box"]
        dx, dy = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
        by_label.setdefault(entry["label"], []).append((int(x1 - dx), int(y1 - dy), int(x2 + dx) + 1, int(y2 + dy) + 1))
    fitting = [
        label
        for label, boxes in by_label.items()
        if _LEAST <= sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes) / (width * height) <= _MOST
    ]
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


def removal_samples(removals: Sequence[Removal], files: Mapping[str, Path], wording: str) -> list[Sample]:
    """Before and after, about the removed object and about the kept one; ids end in `/removed/before` and so on."""
    samples = []
    for removal in removals:
        image = FileImage(files[removal.image])
        for role, label in (("removed", removal.removed), ("kept", removal.kept)):
            if label is None:
                continue
            article = "an" if label[0] in "aeiou" else "a"
            prompt = benchmark_prompt("pope", wording, question=f"Is there {article} {label} in the image?")
            for time, edit in (("before", None), ("after", removal.edit)):
                samples.append(Sample(f"{removal.image}/{role}/{time}", prompt, image, edit=edit))
    return samples


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


def run_beaf(options: RunOptions) -> dict[str, Any] | None:
    """Ask before and after and return the figures as a JSON-ready object; None in helpers of `accelerate launch`.

    Of the options, `annotations` is the file of boxes.

    Raises:
        UserError: the files do not fit together, or nobody answers.
    """
    assert options.annotations is not None
    if options.images is None:
        raise UserError("give --images DIR, the folder of the images")
    folder = ImageFolder(options.images)
    removals = read_removals(options.annotations, options.seed)
    named = (removal.image for removal in removals)
    missing = folder.missing(named, options.annotations.name, skip=options.skip_missing_images)
    removals = [removal for removal in removals if removal.image not in missing][: options.limit]
    files = {removal.image: path for removal in removals if (path := folder.find(removal.image))}
    known = options.configuration(suite="beaf")
    configuration = {name: known[name] for name in _CONFIGURATION}
    samples = removal_samples(removals, files, options.prompting.wording)
    outputs = ask(samples, options, configuration)
    if not main_process():
        return None
    answers = {sample.id: outputs[sample.id].text if sample.id in outputs else None for sample in samples}
    figures = removal_figures(removals, answers)
    return {
        "suite": "beaf",
        "configuration": configuration,
        "images_missing": len(missing),
        "failed": sum(answer is None for answer in answers.values()),
        "confidence": 0.95,
        "figures": {name: figure.to_json() for name, figure in figures.items()},
    }
