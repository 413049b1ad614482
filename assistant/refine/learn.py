"""Teaching a model its corrections: a short run of the one trainer, from which an adapter comes out."""

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.refine.fingerprint import checkpoint_fingerprint
from fourfold.assistant.refine.recipe import Refinement, read_refinement, replay_of
from fourfold.assistant.refine.samples import Lessons, lessons_of, samples_of
from fourfold.assistant.refine.split import Split, data_hash, split_by_image
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.training.data.sample import Sample
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.assistant.training.trainer import Trainer

OnStep = Callable[[int, int, float], None]
"""Told steps done, steps in all, and the loss."""


def train(
    store_directory: str | Path,
    model_directory: str | Path,
    out: str | Path,
    *,
    max_steps: int | None = None,
    seed: int = 0,
    recipe: Refinement | Path | None = None,
    features: Path | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Learn the consented corrections of a store on top of a model.

    The run's files lie in `OUT.work` until the adapter is whole. A run that was interrupted goes on there when it is
    called again with the same corrections, model and settings; one that fits no longer is begun anew. Nothing of an
    image stays behind: `OUT` holds weights, numbers, and the ids of corrections.

    Args:
        store_directory: of the `CorrectionStore`.
        model_directory: the checkpoint that was corrected; it is not changed.
        out: directory of the adapter; it must not exist.
        max_steps: optimiser steps at most; None for what the recipe says.
        seed: of everything that is drawn.
        recipe: settings, or a YAML file of them; None for `recipes/default.yaml`.
        features: directory of image features that outlives the run, for whoever trains again and again.
        on_step: told of every step; by default a progress bar on stderr.

    Returns:
        `out`, with `adapter_model.safetensors`, `adapter_config.json` and `training.json`.

    Raises:
        UserError: there is nothing to learn, `out` exists, or the settings or the model are unusable.
    """
    from fourfold.assistant.refine.rehearsal import rehearsal
    from fourfold.assistant.refine.replay import CorrectedMixture, retired_answers, taught_answers
    from fourfold.assistant.training.data.mixture import Mixture
    from fourfold.assistant.training.start import load_base
    from fourfold.assistant.training.trainer import Trainer

    model_directory, out = Path(model_directory), Path(out)
    refinement = recipe if isinstance(recipe, Refinement) else read_refinement(recipe)
    if out.exists():
        raise UserError(f"{out} exists already; choose another place or remove it")
    store = CorrectionStore(store_directory)
    lessons = stored_lessons(store, refinement, seed)
    split = split_by_image(lessons.corrected, refinement.held_out)
    samples = samples_of(split.learnt, store.image)
    if not samples:
        raise UserError(
            f"there is nothing to learn: of {store.count()} records {store.count(consented=True)} have consent, "
            f"{len(lessons.doubts)} of these are doubtful and {lessons.verdicts} are only a verdict"
        )
    steps = refinement.steps(len(samples), max_steps)
    plan = {
        "model": checkpoint_fingerprint(model_directory),
        "data": data_hash([lesson.correction for lesson in (*lessons.corrected, *lessons.kept)]),
        "refinement": asdict(refinement),
        "steps": steps,
        "seed": seed,
    }
    training = refinement.training(replay_of(model_directory, refinement, seed), steps, seed)
    work = _work_directory(out, plan)
    began = time.monotonic()
    model, processor = load_base(training, str(model_directory))
    replay = Mixture(training.mixture)
    retired = retired_answers(split.learnt, taught_answers(replay, refinement.replay_images))
    kept = samples_of(lessons.kept, store.image)
    if refinement.rehearse and refinement.share < 1:
        kept += rehearsal(model, processor, samples, split.learnt, retired, work / "captions.json")
    source = CorrectedMixture(
        samples,
        kept,
        replay,
        batch_size=refinement.batch_size,
        corrected=refinement.corrections_in_a_batch(len(samples)),
        images=refinement.replay_images,
        retired=retired,
        distilled=refinement.distilled,
    )
    with _reporting(on_step, training.steps) as report:
        trainer = Trainer(
            training,
            model,
            processor,
            work,
            features or work / "features",
            report=report,
            source=source,
            preference=refinement.preference,
        )
        if refinement.preference is not None:
            source.corrections = _with_margins(trainer, samples, work / "margins.json")
        trainer.run()
    replayed = {"photos": dict(training.mixture.photos), "scenes": training.mixture.scenes}
    told = {
        **plan,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "corrections": _told_of(lessons, split),
        "samples": len(samples),
        "replay": {
            **replayed,
            "retired": sorted(f"{task.tag} {answer}" for task, answer in retired),
            "kept": len(kept),
        },
        "trained_on": trainer.seen,
        "seconds": round(time.monotonic() - began, 1),
        "losses": _losses(work / "log.jsonl"),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
    }
    _hand_over(trainer, refinement, told, out)
    shutil.rmtree(work)
    return out


def stored_lessons(store: CorrectionStore, refinement: Refinement, seed: int = 0) -> Lessons:
    """What the consented records of a store teach, without those on images that were excluded since."""
    excluded = {correction.id for correction in store.excluded()}
    return lessons_of(
        [correction for correction in store.list(consented=True) if correction.id not in excluded],
        contrast=refinement.contrast,
        annotated=refinement.annotations,
        seed=seed,
    )


def _work_directory(out: Path, plan: Mapping[str, Any]) -> Path:
    """The run's directory; what lies there from a run with another plan is removed, images' features above all."""
    work = out.with_name(f"{out.name}.work")
    path = work / "plan.json"
    text = json.dumps(plan, indent=2, sort_keys=True) + "\n"
    if work.exists() and not (path.is_file() and path.read_text(encoding="utf-8") == text):
        shutil.rmtree(work)
    if not work.exists():
        work.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    return work


@contextmanager
def _reporting(on_step: OnStep | None, steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A report for the trainer that tells `on_step`, or draws a bar where there is none."""
    if on_step is not None:
        told = on_step
        yield lambda line: told(line["step"], steps, line["loss"]) if "loss" in line else None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("looking at the images", total=None)

        def draw(line: Mapping[str, Any]) -> None:
            if "loss" in line:
                text = f"learning, loss {line['loss']:.2f}"
                progress.update(bar, description=text, total=steps, completed=line["step"])

        yield draw


def _with_margins(trainer: "Trainer", samples: Sequence[Sample], path: Path) -> list[Sample]:
    """The samples with what the model before training thought of their pairs, computed once and kept in `path`."""
    import torch

    from fourfold.assistant.training.packing import collate
    from fourfold.assistant.training.preference import differences

    if path.is_file():
        margins = iter(json.loads(path.read_text(encoding="utf-8")))
    else:
        learner, found = trainer.learner.eval(), []
        device = learner.model.device
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            for start in range(0, len(samples), trainer.recipe.batch_size):
                part = samples[start : start + trainer.recipe.batch_size]
                packed = [trainer.packer.pack(sample) for sample in part]
                batch = collate(packed, trainer.packer.padding_id).to(device)
                features = trainer.store.get([sample.image for sample in part]).to(device)
                if len(batch.pairs):
                    found += differences(learner(batch, features).tokens, batch).tolist()
        building = path.with_suffix(".building")
        building.write_text(json.dumps(found), encoding="utf-8")
        building.replace(path)
        margins = iter(found)
    return [
        replace(
            sample,
            turns=tuple(
                turn if turn.rejected is None else replace(turn, margin=next(margins)) for turn in sample.turns
            ),
        )
        for sample in samples
    ]


def _told_of(lessons: Lessons, split: Split) -> dict[str, Any]:
    """Ids by what was done with them."""
    return {
        "learnt": [lesson.correction.id for lesson in split.learnt],
        "held_out": [lesson.correction.id for lesson in split.held_out],
        "kept": [lesson.correction.id for lesson in lessons.kept],
        "doubtful": [{"id": doubt.id, "reason": doubt.reason} for doubt in lessons.doubts],
        "only_verdicts": lessons.verdicts,
    }


def _losses(log: Path) -> list[float]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [round(line["loss"], 4) for line in lines if "loss" in line]


def _hand_over(trainer: "Trainer", refinement: Refinement, told: Mapping[str, Any], out: Path) -> None:
    """Write the adapter beside `out` and move it there in one step."""
    from fourfold.assistant.refine.adapter import write_adapter, write_projector

    files: dict[str, str | int] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.building-"))
    try:
        if refinement.lora.rank:
            files["adapter_sha256"] = write_adapter(building, trainer.learner, refinement.lora)
            files["adapter_bytes"] = (building / "adapter_model.safetensors").stat().st_size
        if refinement.projector_lr:
            write_projector(building / "projector.safetensors", trainer.learner)
        text = json.dumps({**told, **files}, indent=1) + "\n"
        (building / "training.json").write_text(text, encoding="utf-8")
        building.chmod(0o755)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
