"""What the eyes bring: the language model alone, read-outs alone, the detector alone, and the loop, on held-out items.

All ways answer the same questions about photos and scenes and are scored by the card's rules; against the model alone
each is paired, so that right answers that became wrong are seen beside wrong ones that became right.
"""

import json
import resource
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.grounding import Box, format_box, format_phrase, parse
from fourfold.assistant.training.data import Turn
from fourfold.assistant.training.data.photo_tasks import ABSENT
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Model, OnOutput, Output
from fourfold.eval.run import run
from fourfold.eval.scorers import answers as rules
from fourfold.eval.scorers.yes_no import first_verdict
from fourfold.eval.statistics import clustered_mean, paired
from fourfold.eval.task import Sample, Task
from fourfold.eval.tasks.held_out import SOURCES, Group, held_out_figures, held_out_groups
from fourfold.eval.tasks.show_once import show_once
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.assistant.readouts import ReadoutLibrary
    from fourfold.assistant.tools import Detector

KINDS = ("refer", "detection", "count", "existence")
ALONE, READ_OUTS, DETECTOR, LOOP = "model alone", "read-outs", "detector", "loop"
SIZES = {"small": (0.0, 0.15), "medium": (0.15, 0.4), "large": (0.4, 1.01)}
"""Parts of the picture that a thing covers."""
_THERE = 0.5  # presence from which read-outs say yes, and box what they are asked for


class Timed(Model):
    """A model whose answers tell how many seconds each took: one question at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def identity(self) -> str:
        return f"{self._model.identity} one by one"

    def generate(
        self, samples: Sequence[Sample], *, max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        """As the model, with `seconds` in each output's fields."""
        for sample in samples:
            begun = time.perf_counter()

            def timed(sample: Sample, output: Output, begun: float = begun) -> None:
                seconds = {"seconds": time.perf_counter() - begun}
                on_output(sample, Output(output.text, output.scores, output.error, {**output.fields, **seconds}))

            self._model.generate([sample], max_tokens=max_tokens, template=template, on_output=timed)


class ReadoutModel(Model):
    """Answers by read-outs alone: what they do not know is not answered.

    Args:
        model: whose engine has the tower.
        library: of that tower.
    """

    def __init__(self, model: EngineModel, library: "ReadoutLibrary") -> None:
        self._model, self._library = model, library

    @property
    def identity(self) -> str:
        revision = json.dumps(self._library.provenance, sort_keys=True)
        return f"read-outs of {self._library.tower}, {len(self._library.names)} nouns, {revision}"

    def generate(
        self, samples: Sequence[Sample], *, max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        """`fields` have the confidence, the point and the seconds of the read-outs alone."""
        from fourfold.assistant.readouts import normalised

        for sample in samples:
            turn: Turn = sample.reference
            image = sample.picture()
            assert image is not None
            features = normalised(self._model.engine.vision_features(image))
            begun = time.perf_counter()
            several = turn.facts["kind"] in ("detection", "count")
            finding = self._library.find(features, asked_phrase(turn), several=several)
            seconds = time.perf_counter() - begun
            if finding is None:
                on_output(sample, Output("", fields={"seconds": seconds, "known": False}))
                continue
            there = finding.presence >= _THERE
            boxes = finding.boxes if there or turn.facts["kind"] == "refer" else ()
            fields = {
                "seconds": seconds,
                "known": True,
                "confidence": list(finding.confidence),
                "presence": finding.presence,
                "point": list(finding.point),
            }
            on_output(sample, Output(written(turn, boxes, there), fields=fields))


class DetectorModel(Model):
    """Answers by the detector alone: what it has no class for is not answered."""

    def __init__(self, detector: "Detector") -> None:
        self._detector = detector

    @property
    def identity(self) -> str:
        return "detector"

    def generate(
        self, samples: Sequence[Sample], *, max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        for sample in samples:
            image: Image.Image | None = sample.picture()
            assert image is not None
            begun = time.perf_counter()
            found = self._detector.detect(image, asked_phrase(sample.reference))
            fields = {"seconds": time.perf_counter() - begun, "known": found is not None}
            text = ""
            if found is not None:
                boxes = [box for box, _ in found]
                text = written(sample.reference, boxes[:1] if _one(sample.reference) else boxes, bool(boxes))
            on_output(sample, Output(text, fields=fields))


def asked_phrase(turn: Turn) -> str:
    """The words of a question that name the thing."""
    for name in ("phrase", "label", "object"):
        if name in turn.facts:
            return str(turn.facts[name])
    raise ValueError(f"the question {turn.question!r} names nothing")


def written(turn: Turn, boxes: Sequence[Box], there: bool) -> str:
    """An answer in the form that the card scores."""
    kind = turn.facts["kind"]
    if kind == "existence":
        return "yes" if there else "no"
    if kind == "count":
        return str(len(boxes))
    if kind == "refer":
        return format_box(boxes[0]) if boxes else ""
    return format_phrase(asked_phrase(turn), boxes) if boxes else ABSENT


def _one(turn: Turn) -> bool:
    return turn.facts["kind"] == "refer"


def run_eyes(
    model: EngineModel,
    *,
    limit: int | None,
    out: Path,
    seed: int = 0,
    sources: Sequence[str] = SOURCES,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure all ways of answering; plain JSON. A run that was stopped goes on where it was.

    Args:
        model: a checkpoint in this process, without eyes.
        limit: questions a kind and source at most; None for all.
        out: folder of the answers.
        seed: draws other held-out questions.
        sources: of "photos" and "scenes".
        only: of the ways' names, "show once" among them; empty for all.

    Raises:
        UserError: the checkpoint has no read-outs.
    """
    from fourfold.assistant.readouts import load_readouts

    library = load_readouts(model.checkpoint)
    if library is None:
        raise UserError(
            f"{model.name} has no read-outs: learn them by `fourfold readouts learn --out readouts.safetensors`, and "
            "put the file into its folder"
        )
    ways: dict[str, Model] = {
        ALONE: Timed(model),
        READ_OUTS: ReadoutModel(model, library),
        LOOP: Timed(EngineModel(model.checkpoint, name=model.name, shared=model, eyes=True)),
    }
    if (detector := _detector()) is not None:
        ways[DETECTOR] = DetectorModel(detector)
    if unknown := sorted(set(only) - {*ways, "show once"}):
        raise UserError(f"there is no way {unknown[0]!r}; there are: {', '.join([*ways, 'show once'])}")
    ways = {name: way for name, way in ways.items() if not only or name in only}
    groups = [
        group
        for source in sources
        for group in held_out_groups(source, limit, seed)
        if group.kind in KINDS and any(_can_be_asked(sample) for sample in group.samples())
    ]
    given: dict[str, dict[str, Mapping[str, Output]]] = {}
    memory: dict[str, float] = {}
    for name, way in ways.items():
        samples = [sample for group in groups for sample in group.samples() if _can_be_asked(sample)]
        with EvalLog(
            out / f"{name.replace(' ', '-')}.jsonl", {"suite": "eyes", "way": name, "model": way.identity}
        ) as log:
            answered = all(sample.id in log.done for sample in samples)
            outputs = run(Task(name, samples), way, log)
        given[name] = {f"{group.source}/{group.kind}": outputs for group in groups}
        if not answered:  # else nothing was loaded, and there is nothing to tell
            memory[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results = [_group_figures(group, given, library) for group in groups]
    shown = show_once(model, library, seed=seed) if not only or "show once" in only else None
    return {
        "suite": "eyes",
        "model": model.identity,
        "library": dict(library.provenance),
        "limit": limit,
        "seed": seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak_memory_mib": memory,
        "results": results,
        "show_once": shown,
    }


def _can_be_asked(sample: Sample) -> bool:
    try:
        asked_phrase(sample.reference)
    except ValueError:
        return False
    return True


def _detector() -> "Detector | None":
    if find_spec("cv2") is None:
        return None
    from fourfold.assistant.tools import detector_if_fetched

    return detector_if_fetched()


def _group_figures(
    group: Group, given: Mapping[str, Mapping[str, Mapping[str, Output]]], library: "ReadoutLibrary"
) -> dict[str, Any]:
    """All ways on one group of questions."""
    samples = [sample for sample in group.samples() if _can_be_asked(sample)]
    turns, images = [sample.reference for sample in samples], [sample.cluster for sample in samples]
    known = [library.read(asked_phrase(turn)) is not None for turn in turns]
    told: dict[str, Any] = {
        "source": group.source,
        "kind": group.kind,
        "n": len(samples),
        "known": sum(known) / max(len(known), 1),
        "ways": {},
    }
    right: dict[str, list[float]] = {}
    for name, by_group in given.items():
        outputs = by_group[f"{group.source}/{group.kind}"]
        said = [outputs[sample.id].text or "" for sample in samples]
        right[name] = [_right(turn, text) for turn, text in zip(turns, said, strict=True)]
        figures = held_out_figures(group.kind, turns, said, images)
        if group.kind == "refer":
            figures |= _pointing(turns, [outputs[sample.id] for sample in samples], images)
            for size, (least, most) in SIZES.items():
                rows = [row for row, turn in enumerate(turns) if least <= turn.boxes[0].area < most]
                if rows:
                    figures[f"acc@0.5, {size}"] = _mean(right[name], images, rows)
            rows = [row for row, one in enumerate(known) if one]
            if rows:
                figures["acc@0.5, nouns of the library"] = _mean(right[name], images, rows)
        entry: dict[str, Any] = {key: value.to_json() for key, value in figures.items()}
        seconds = [s for sample in samples if (s := outputs[sample.id].fields.get("seconds")) is not None]
        entry["seconds"] = sorted(seconds)[len(seconds) // 2] if seconds else None
        if ALONE in right and name != ALONE:
            change = paired(right[ALONE], right[name], images)
            entry["against the model alone"] = {
                "difference": change.difference.to_json(),
                "p_value": change.p_value,
                "wrong to right": change.better,
                "right to wrong": change.worse,
            }
        told["ways"][name] = entry
    return told


def _mean(values: Sequence[float], images: Sequence[str], rows: Sequence[int]) -> Any:
    return clustered_mean([values[row] for row in rows], [images[row] for row in rows])


def _right(turn: Turn, answer: str) -> float:
    """Whether an answer counts as right: IoU of 0.5 for a place, all and only the boxes for a detection."""
    match turn.facts["kind"]:
        case "refer":
            return float(rules.first_box_iou(turn, answer) >= 0.5)
        case "existence":
            return float(first_verdict(answer) == (turn.answer == "yes"))
        case "count":
            return rules.number(turn, answer)
        case _:
            found = list(parse(answer).boxes)
            fits = [any(box.iou(true) >= 0.5 for box in found) for true in turn.boxes]
            return float(all(fits) and len(found) == len(turn.boxes))


def _pointing(turns: Sequence[Turn], outputs: Sequence[Output], images: Sequence[str]) -> dict[str, Any]:
    """Whether the point lies in the true box: what the read-outs call the likeliest place, else the box's middle."""
    hits = []
    for turn, output in zip(turns, outputs, strict=True):
        point = output.fields.get("point")
        boxes = parse(output.text or "").boxes
        if point is None and boxes:
            point = ((boxes[0].x1 + boxes[0].x2) / 2, (boxes[0].y1 + boxes[0].y2) / 2)
        true = turn.boxes[0]
        hits.append(0.0 if point is None else float(true.x1 <= point[0] <= true.x2 and true.y1 <= point[1] <= true.y2))
    small = [row for row, turn in enumerate(turns) if turn.boxes[0].area < SIZES["small"][1]]
    figures = {"pointing": clustered_mean(hits, images)}
    if small:
        figures["pointing, small"] = _mean(hits, images, small)
    return figures
