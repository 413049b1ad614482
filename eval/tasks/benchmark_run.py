"""Running a benchmark: questions out, answers in, scored and written down so that others can look."""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fourfold.assistant.files import write_text
from fourfold.eval.benchmarks import Benchmark, Options, benchmark_named
from fourfold.eval.benchmarks.benchmark import right_answer
from fourfold.eval.controls import Control, Perturbation, prepare
from fourfold.eval.data.official import stored_pictures
from fourfold.eval.data.pictures import Pictures
from fourfold.eval.data.table import files_hash, is_table, table_files
from fourfold.eval.log import EvalLog, claim, configuration_hash
from fourfold.eval.model import Model, Output
from fourfold.eval.predictions import Prediction
from fourfold.eval.prompting import PromptConfig
from fourfold.eval.run import main_process, run
from fourfold.eval.score import Result, score_predictions
from fourfold.eval.scorers.ranking import p_yes
from fourfold.eval.task import ImageSource, Sample, Task
from fourfold.prompts.errors import UserError

_LONGEST_ANSWER = 4000
"""Characters of an answer that `samples.json` keeps; `answers.jsonl` has all."""


@dataclass(frozen=True)
class RunOptions:
    """What to run.

    Attributes:
        benchmark: name.
        images: folder of the images; None where the annotations are a table that holds them.
        annotations: official annotations or a table; None for a test split, which gives a submission file and no score.
        out: folder of this run.
        model: who answers.
        questions: official questions, where the benchmark has such a file.
        limit: at most so many questions, drawn by the seed; a larger limit keeps those of a smaller one.
        control: what the model gets to see.
        perturbation: how questions are disturbed.
        prompting: wording, length, box format, chat template.
        gt_field: the ground truth's field in VQA files.
        seed: of all draws.
        skip_missing_images: leave out questions whose image is not there, and say how many.
        split: which of a table's splits.
    """

    benchmark: str
    images: Path | None
    annotations: Path | None
    out: Path
    model: Model
    questions: Path | None = None
    limit: int | None = None
    control: Control = Control.NONE
    perturbation: Perturbation = Perturbation.NONE
    prompting: PromptConfig = field(default_factory=PromptConfig)
    gt_field: str = "answer"
    seed: int = 0
    skip_missing_images: bool = False
    split: str | None = None

    @property
    def scoring(self) -> Options:
        """What is declared about the files."""
        return Options(self.gt_field, self.prompting.box_format, self.split)

    def configuration(self, **more: Any) -> dict[str, Any]:
        """All that an answer depends on."""
        source, prompting = self.annotations or self.questions, self.prompting
        assert source is not None
        files = table_files(source, self.split) if is_table(source) else (source,)
        if self.split is not None:
            more["split"] = self.split
        return {
            "benchmark": self.benchmark,
            "model": self.model.identity,
            "control": str(self.control),
            "probe": str(self.perturbation),
            "wording": prompting.wording,
            "box_format": str(prompting.box_format) if prompting.box_format else None,
            "max_tokens": prompting.max_tokens,
            "temperature": 0,
            "seed": self.seed,
            "recipe": prompting.recipe,
            "template": dict(prompting.template),
            "file": source.name,
            "file_sha256": files_hash(files),
            **more,
        }


@dataclass(frozen=True)
class Run:
    """A finished run: its result (None for a test split, and in helpers of `accelerate launch`)."""

    result: Result | None
    asked: int
    failed: int


def run_benchmark(options: RunOptions) -> Run:
    """Ask, score, and write `run.json`, `answers.jsonl`, `predictions.json`, `samples.json` and `result.json` to `out`.

    Raises:
        UserError: the files do not fit together, images are missing, `out` holds another run, or nobody answers.
    """
    bench = benchmark_named(options.benchmark)
    samples, skipped, pictures = read_samples(bench, options)
    asked = prepare(
        bench,
        samples,
        pictures.find,
        control=options.control,
        perturbation=options.perturbation,
        config=options.prompting,
        seed=options.seed,
    )
    configuration = options.configuration()
    outputs = ask(asked, options, configuration)
    if not main_process():
        return Run(None, 0, 0)
    predictions = _predictions(samples, outputs)
    failed = len(samples) - len(predictions)
    rows = bench.submission(samples, predictions)
    lines = "\n".join(map(json.dumps, rows)) if bench.result_lines else json.dumps(rows, indent=1)
    write_text(options.out / "predictions.json", lines + "\n")
    result = None
    if options.annotations is not None:
        facts = {
            "annotations": str(options.annotations),
            "control": str(options.control),
            "questions_without_image": skipped,
            "failed": failed,
        }
        left_out = {name for output in outputs.values() for name in output.fields.get("asked_without", ())}
        if left_out:  # without temperature, answers are drawn and not the likeliest
            facts["asked_without"] = sorted(left_out)
        result = score_predictions(
            bench, samples, predictions, allow_missing=True, options=options.scoring, facts=facts
        )
        content = {
            "configuration": configuration,
            "hash": configuration_hash(configuration),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **result.to_json(),
        }
        write_text(options.out / "result.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    by_id = {prediction.id: prediction for prediction in predictions}
    records = []
    for sample, shown in zip(samples, asked, strict=True):
        prediction = by_id.get(sample.id)
        record = _sample_record(sample, shown, pictures.find(sample.cluster), outputs.get(sample.id), result)
        drawing = bench.drawing(sample, prediction, options.scoring)
        if drawing is not None:
            record |= {"size": drawing.size, "boxes": {"truth": drawing.truth, "predicted": drawing.predicted}}
        records.append(record)
    write_text(options.out / "samples.json", json.dumps(records, ensure_ascii=False) + "\n")
    return Run(result, len(samples), failed)


def read_samples(bench: Benchmark, options: RunOptions) -> tuple[list[Sample], int, Pictures]:
    """The questions of a run, how many were left out for want of their image, and the images.

    Raises:
        UserError: images are missing and may not be left out.
    """
    source = options.annotations or options.questions
    if source is None:
        raise UserError("give --data PATH or --annotations FILE, or --questions FILE alone for a test split")
    if options.annotations is not None:
        samples = bench.read(options.annotations, options.questions, options.scoring)
    else:
        samples = bench.read_questions(source)
    pictures = Pictures(stored_pictures(source, bench.name, options.split), options.images, coco=bench.coco_images)
    missing = pictures.missing((sample.cluster for sample in samples), bench.name, skip=options.skip_missing_images)
    found = [sample for sample in samples if sample.cluster not in missing]
    skipped = len(samples) - len(found)
    if options.limit is not None and options.limit < len(found):
        order = list(range(len(found)))
        random.Random(f"limit {options.seed}").shuffle(order)
        found = [found[index] for index in sorted(order[: options.limit])]
    return found, skipped, pictures


def ask(samples: Sequence[Sample], options: RunOptions, configuration: Mapping[str, Any]) -> Mapping[str, Output]:
    """What the model makes of the samples, with the run's length and template, from its log or anew.

    Raises:
        UserError: the run's folder holds another run, or nobody answers.
    """
    claim(options.out, configuration)
    task = Task("asking", samples, options.prompting.max_tokens, options.prompting.template)
    with EvalLog(options.out / "answers.jsonl", configuration) as log:
        return run(task, options.model, log)


def _predictions(samples: Sequence[Sample], outputs: Mapping[str, Output]) -> list[Prediction]:
    predictions = []
    for sample in samples:
        output = outputs.get(sample.id)
        if output is not None and output.text is not None:
            score = p_yes(sample.candidates, output.scores)
            kept = output.scores if sample.candidates and score is None else None
            predictions.append(Prediction(sample.id, output.text, score=score, scores=kept))
    return predictions


def _sample_record(
    sample: Sample, shown: Sample, own: ImageSource | None, output: Output | None, result: Result | None
) -> dict[str, Any]:
    """A sample as the report shows it, readable without the benchmark's files; `score` is the headline's, 0..1."""
    answer = output.text if output else None
    record: dict[str, Any] = {
        "id": sample.id,
        "image": sample.cluster,
        "file": own.id if own else None,
        "shown_file": shown.image.id if shown.image else None,
        "question": sample.prompt,
        "prompt": shown.prompt,
        "reference": _reference_text(sample),
        "answer": answer[:_LONGEST_ANSWER] if answer is not None else None,
        "groups": dict(sample.groups),
    }
    if sample.candidates:
        record |= {"candidates": list(sample.candidates), "scores": output.scores if output else None}
    if result is not None:
        record["score"] = result.headline.by_sample.get(sample.id)
    if output and output.error:
        record["error"] = output.error
    return record


def _reference_text(sample: Sample) -> str:
    """What would have been right, in words; annotators' answers with their number."""
    if isinstance(sample.reference, tuple):
        return ", ".join(f"{answer} ({count})" for answer, count in Counter(sample.reference).most_common())
    return right_answer(sample)
