"""Teaching a model its corrections: a short run of the one trainer, from which an adapter comes out."""

import json
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.files import building, write_text
from fourfold.assistant.progress import OnProgress, Progress, progress_bar
from fourfold.assistant.refine.adapter import WEIGHTS, write_adapter, write_projector
from fourfold.assistant.refine.concepts.example import correction_of
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.recipe import Refinement, read_refinement, replay_of
from fourfold.assistant.refine.training.samples import (
    Split,
    TrainingSet,
    data_hash,
    samples_of,
    split_by_image,
    training_set_of,
)
from fourfold.assistant.training.data.sample import Sample
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.assistant.training.trainer import Trainer


def train(
    store_directory: str | Path,
    model_directory: str | Path,
    out: str | Path,
    *,
    max_steps: int | None = None,
    seed: int = 0,
    recipe: Refinement | Path | None = None,
    features: Path | None = None,
    on_progress: OnProgress | None = None,
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
        on_progress: told how far it is; None for a progress bar on stderr.

    Returns:
        `out`, with `adapter_model.safetensors`, `adapter_config.json` and `training.json`.

    Raises:
        UserError: there is nothing to learn, `out` exists, or the settings or the model are unusable.
    """
    from fourfold.assistant.refine.training.rehearsal import rehearsal
    from fourfold.assistant.refine.training.replay import CorrectedMixture, superseded_answers, taught_answers
    from fourfold.assistant.training.data.mixture import Mixture
    from fourfold.assistant.training.trainable_model import load_base
    from fourfold.assistant.training.trainer import Trainer

    model_directory, out = Path(model_directory), Path(out)
    refinement = recipe if isinstance(recipe, Refinement) else read_refinement(recipe)
    if out.exists():
        raise UserError(f"{out} exists already; choose another place or remove it")
    store = CorrectionStore(store_directory)
    taught, split, samples = what_to_learn(store, refinement, seed)
    steps = refinement.steps(len(samples), max_steps)
    plan = {
        "model": model_fingerprint(model_directory),
        "data": data_hash([target.correction for target in (*taught.corrected, *taught.kept)]),
        "refinement": asdict(refinement),
        "steps": steps,
        "seed": seed,
    }
    training = refinement.training(replay_of(model_directory, refinement, seed), steps, seed)
    work = _work_directory(out, plan)
    began = time.monotonic()
    with progress_bar(on_progress) as tell:

        def report(line: Mapping[str, Any]) -> None:
            if "loss" in line:
                tell(Progress("learning", line["step"], training.steps, line["loss"]))

        tell(Progress("loading the model"))
        model, processor = load_base(training, str(model_directory))
        replay = Mixture(training.mixture)
        superseded = superseded_answers(split.learnt, taught_answers(replay, refinement.replay_images))
        kept = samples_of(taught.kept, store.image)
        if refinement.rehearse and refinement.share < 1:
            kept += rehearsal(model, processor, samples, split.learnt, superseded, work / "captions.json", tell)
        source = CorrectedMixture(
            samples,
            kept,
            replay,
            batch_size=refinement.batch_size,
            corrected=refinement.corrections_in_a_batch(len(samples)),
            images=refinement.replay_images,
            superseded=superseded,
            kd_weight=refinement.distilled,
        )
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
        images = list({image.key: image for image in source.images() if image not in trainer.store}.values())
        looked = partial(Progress, "looking at the images", total=len(images))
        trainer.store.compute(images, on_progress=lambda done: tell(looked(done=done)))
        if refinement.preference is not None:
            source.corrections = _with_margins(trainer, samples, work / "margins.json")
        trainer.run()
    replayed = {"photos": dict(training.mixture.photos), "scenes": training.mixture.scenes}
    told = {
        **plan,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "corrections": {
            "learnt": [target.correction.id for target in split.learnt],
            "held_out": [target.correction.id for target in split.held_out],
            "kept": [target.correction.id for target in taught.kept],
            "doubtful": [asdict(item) for item in taught.to_review],
            "only_verdicts": taught.verdicts,
        },
        "samples": len(samples),
        "replay": {
            **replayed,
            "superseded": sorted(f"{task.tag} {answer}" for task, answer in superseded),
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


def stored_training_set(store: CorrectionStore, refinement: Refinement, seed: int = 0) -> TrainingSet:
    """What the consented records of a store teach, without those on images that were excluded since."""
    concepts = ConceptStore(store.directory).list()
    shown = [taught for concept in concepts for e in concept.examples if (taught := correction_of(e)) is not None]
    return training_set_of(
        [*store.list(consented=True, excluded=False), *shown],
        contrast=refinement.contrast,
        annotated=refinement.annotations,
        seed=seed,
    )


def what_to_learn(store: CorrectionStore, refinement: Refinement, seed: int) -> tuple[TrainingSet, Split, list[Sample]]:
    """The training set of a store, which of it is kept back, and the samples of what is learnt.

    Raises:
        UserError: there is nothing to learn.
    """
    taught = stored_training_set(store, refinement, seed)
    split = split_by_image(taught.corrected, refinement.held_out)
    samples = samples_of(split.learnt, store.image)
    if not samples:
        raise UserError(
            f"there is nothing to learn: of {store.count()} records {store.count(consented=True)} have consent, "
            f"{len(taught.to_review)} of these are doubtful and {taught.verdicts} are only a verdict"
        )
    return taught, split, samples


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


def _with_margins(trainer: "Trainer", samples: Sequence[Sample], path: Path) -> list[Sample]:
    """The samples with what the model before training thought of their pairs, computed once and kept in `path`."""
    import torch

    from fourfold.assistant.training.packing import collate
    from fourfold.assistant.training.preference import differences

    if path.is_file():
        margins = iter(json.loads(path.read_text(encoding="utf-8")))
    else:
        learner, found = trainer.trainable.eval(), []
        device = learner.model.device
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            for start in range(0, len(samples), trainer.recipe.batch_size):
                part = samples[start : start + trainer.recipe.batch_size]
                packed = [trainer.packer.pack(sample) for sample in part]
                batch = collate(packed, trainer.packer.padding_id).to(device)
                features = trainer.store.get([image for sample in part for image in sample.images]).to(device)
                if len(batch.pairs):
                    found += differences(learner(batch, features).tokens, batch).tolist()
        write_text(path, json.dumps(found))
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


def _losses(log: Path) -> list[float]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [round(line["loss"], 4) for line in lines if "loss" in line]


def _hand_over(trainer: "Trainer", refinement: Refinement, told: Mapping[str, Any], out: Path) -> None:
    """Write the adapter beside `out` and move it there in one step."""
    files: dict[str, str | int] = {}
    with building(out) as part:
        if refinement.lora.rank:
            files["adapter_sha256"] = write_adapter(part, trainer.trainable, refinement.lora)
            files["adapter_bytes"] = (part / WEIGHTS).stat().st_size
        if refinement.projector_lr:
            write_projector(part / "projector.safetensors", trainer.trainable)
        (part / "training.json").write_text(json.dumps({**told, **files}, indent=1) + "\n", encoding="utf-8")
