"""Running a benchmark: questions out, answers in, scored and written down so that others can look."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fourfold.eval.answerer import Answerer
from fourfold.eval.asking import Ask, Control, asks_for
from fourfold.eval.images import ImageFolder
from fourfold.eval.log import configuration_hash, write_whole
from fourfold.eval.predictions import Prediction
from fourfold.eval.probes import Probe
from fourfold.eval.prompting import PromptConfig
from fourfold.eval.samples import sample_record
from fourfold.eval.score import Result, score_predictions
from fourfold.eval.scorers.ranking import p_yes
from fourfold.eval.tasks import Benchmark, Item, Options, benchmark_named
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class RunOptions:
    """What to run.

    Attributes:
        benchmark: name.
        images: folder of the images.
        annotations: official annotations; None for a test split, which gives a submission file and no score.
        out: folder of this run.
        answerer: who answers.
        questions: official questions, where the benchmark has such a file.
        limit: at most so many questions, drawn by the seed; a larger limit keeps those of a smaller one.
        control: what the model gets to see.
        probe: how questions are disturbed.
        manner: wording, length, box format, chat template.
        gt_field: the ground truth's field in VQA files.
        seed: of all draws.
        skip_missing_images: leave out questions whose image is not there, and say how many.
    """

    benchmark: str
    images: Path
    annotations: Path | None
    out: Path
    answerer: Answerer
    questions: Path | None = None
    limit: int | None = None
    control: Control = Control.NONE
    probe: Probe = Probe.NONE
    manner: PromptConfig = field(default_factory=PromptConfig)
    gt_field: str = "answer"
    seed: int = 0
    skip_missing_images: bool = False

    @property
    def scoring(self) -> Options:
        """What is declared about the files."""
        return Options(self.gt_field, self.manner.box_format)


@dataclass(frozen=True)
class Run:
    """A finished run: its result (None for a test split) and the files it wrote."""

    result: Result | None
    asked: int
    failed: int
    out: Path


def run_benchmark(options: RunOptions) -> Run:
    """Ask, score, and write `run.json`, `answers.jsonl`, `predictions.json`, `samples.json` and `result.json` to `out`.

    Raises:
        UserError: the files do not fit together, images are missing, `out` holds another run, or nobody answers.
    """
    bench = benchmark_named(options.benchmark)
    items, skipped, folder = questions_of(bench, options)
    configuration = configuration_of(options)
    claim(options.out, configuration)
    asks = asks_for(
        bench,
        items,
        folder.find,
        control=options.control,
        manner=options.manner,
        seed=options.seed,
        probe=options.probe,
    )
    records = options.answerer.answer(asks, options.out, configuration, options.manner)
    if records is None:
        return Run(None, 0, 0, options.out)  # another process of `accelerate launch` goes on from here
    return _finish(bench, items, asks, records, configuration, options, skipped, folder)


def questions_of(bench: Benchmark, options: RunOptions) -> tuple[list[Item], int, ImageFolder]:
    """The items to ask, how many were left out for want of their image, and the images.

    Raises:
        UserError: images are missing and may not be left out.
    """
    if options.annotations is not None:
        items = bench.read(options.annotations, options.questions, options.scoring)
    elif options.questions is not None:
        items = bench.read_questions(options.questions)
    else:
        raise UserError("give --annotations FILE, or --questions FILE alone for a test split")
    folder = ImageFolder(options.images)
    missing = set(folder.missing(item.image for item in items))
    if missing and not options.skip_missing_images:
        names = ", ".join(sorted(missing)[:3])
        raise UserError(
            f"{len(missing)} images of {bench.name} are not under {options.images}, such as {names}; "
            "--skip-missing-images leaves their questions out"
        )
    found = [item for item in items if item.image not in missing]
    if not found:
        raise UserError(f"not one image of {bench.name} is under {options.images}")
    if options.limit is not None and options.limit < len(found):
        order = list(range(len(found)))
        random.Random(f"limit {options.seed}").shuffle(order)
        found = [found[index] for index in sorted(order[: options.limit])]
    return found, len(items) - len([item for item in items if item.image not in missing]), folder


def configuration_of(options: RunOptions, **more: Any) -> dict[str, Any]:
    """All that an answer depends on."""
    source, manner = options.annotations or options.questions, options.manner
    assert source is not None
    return {
        "benchmark": options.benchmark,
        "model": options.answerer.identity(),
        "control": str(options.control),
        "probe": str(options.probe),
        "wording": manner.wording,
        "box_format": str(manner.box_format) if manner.box_format else None,
        "max_tokens": manner.max_tokens,
        "temperature": 0,
        "seed": options.seed,
        "recipe": manner.recipe,
        "template": dict(manner.template),
        "file": source.name,
        "file_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        **more,
    }


def claim(out: Path, configuration: dict[str, Any]) -> None:
    """Write `run.json`, or make sure that the one there is of this run."""
    path = out / "run.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["configuration"]
        changed = [name for name in configuration if before.get(name) != configuration[name]]
        if changed:
            name = changed[0]
            raise UserError(
                f"{out} holds another run ({name} {before.get(name)!r}, now {configuration[name]!r}); "
                "give another --out"
            )
        return
    content = {"configuration": configuration, "begun": datetime.now(UTC).isoformat(timespec="seconds")}
    write_whole(path, json.dumps(content, indent=1) + "\n")


def _finish(
    bench: Benchmark,
    items: Sequence[Item],
    asks: Sequence[Ask],
    records: dict[str, dict[str, Any]],
    configuration: dict[str, Any],
    options: RunOptions,
    skipped: int,
    folder: ImageFolder,
) -> Run:
    predictions = []
    for item in items:
        record = records.get(item.id, {})
        if "answer" in record:
            scores = tuple(record["scores"]) if record.get("scores") else None
            score = p_yes(item.candidates, scores)
            kept = scores if item.candidates and score is None else None
            predictions.append(Prediction(item.id, record["answer"], score=score, scores=kept))
    failed = len(items) - len(predictions)
    write_whole(options.out / "predictions.json", json.dumps(bench.submission(items, predictions), indent=1) + "\n")
    result = None
    if options.annotations is not None:
        facts = {
            "annotations": str(options.annotations),
            "control": str(options.control),
            "questions_without_image": skipped,
            "failed": failed,
        }
        result = score_predictions(bench, items, predictions, allow_missing=True, options=options.scoring, facts=facts)
        content = {
            "configuration": configuration,
            "hash": configuration_hash(configuration),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **result.to_json(),
        }
        write_whole(options.out / "result.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    by_id = {prediction.id: prediction for prediction in predictions}
    samples = []
    for item, ask in zip(items, asks, strict=True):
        prediction = by_id.get(item.id)
        drawing = bench.drawing(item, prediction, options.scoring)
        file, record = folder.find(item.image), records.get(item.id, {})
        samples.append(sample_record(item, ask, file, prediction, record, result, drawing))
    write_whole(options.out / "samples.json", json.dumps(samples, ensure_ascii=False) + "\n")
    return Run(result, len(items), failed, options.out)
