"""The loop: batches, steps, held-out measurements, checkpoints from which a run goes on as if never interrupted."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from fourfold.assistant.files import replacing, write_text
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.training.bridge import export_bridge
from fourfold.assistant.training.data.heldout import HELD_OUT_SOURCES
from fourfold.assistant.training.data.mixture import Mixture
from fourfold.assistant.training.dataset import BucketedDataset, Images, Source, batches
from fourfold.assistant.training.evaluator import Evaluator
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.packing import Packer
from fourfold.assistant.training.preference import Preference
from fourfold.assistant.training.recipe import Recipe, recipe_of
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.assistant.training.warm_start import closed_form_projector, grounded_images
from fourfold.prompts.errors import UserError

Report = Callable[[Mapping[str, Any]], None]
_MAY_CHANGE = ("stages", "log_every", "evaluate_every", "checkpoint_every", "held_out_items", "workers")


def learning_rates(recipe: Recipe, step: int) -> tuple[float, float]:
    """Learning rates of projector and adapter in step `step` (from 0): warm-up, then a cosine down to a tenth."""
    for stage in recipe.stages:
        if step < stage.steps:
            break
        step -= stage.steps
    else:
        step = stage.steps - 1
    if step < stage.warmup:
        factor = (step + 1) / stage.warmup
    else:
        progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
        factor = 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
    return stage.projector_lr * factor, stage.lora_lr * factor


class Trainer:
    """One run in one directory: `log.jsonl`, `state.pt`, and, where it teaches a bridge, `bridge/`.

    Args:
        model: the base, in float32; it is changed.
        directory: of the run; one that holds a state is gone on with.
        features: directory of cached features; None keeps them in memory.
        report: is given every line of the log.
        evaluate: measure held-out items of the mixture's sources from time to time.
        source: samples to learn from in place of the recipe's mixture. Such a run writes no bridge.
        preference: what is learnt from rejected answers; None for nothing.

    Attributes:
        step: optimiser steps done.
        seen: sequences, tokens and seconds of training so far.
        figures: of the last measurement of held-out items.

    Raises:
        UserError: the directory holds a run of another recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MiniGPTv2ForConditionalGeneration,
        processor: MiniGPTv2Processor,
        directory: Path,
        features: Path | None = None,
        report: Report = lambda line: None,
        evaluate: bool = False,
        source: Source | None = None,
        preference: Preference | None = None,
    ) -> None:
        self.recipe = recipe
        self.directory = directory
        self._report = report
        self._accelerator = Accelerator(
            gradient_accumulation_steps=recipe.accumulation,
            mixed_precision="bf16" if torch.cuda.is_available() else "no",
        )
        model.to(self._accelerator.device)
        torch.manual_seed(recipe.seed)
        self.store = FeatureStore(model, processor, features)
        self.packer = Packer(processor)
        self._teaches_a_bridge = source is None
        self._source: Source = source or Mixture(recipe.mixture)
        sources = [name for name in HELD_OUT_SOURCES if getattr(recipe.mixture, name)]
        self._evaluator = Evaluator(self.packer, self.store, recipe.held_out_items, sources) if evaluate else None
        # A projector that stays must not be a part of the gradient's norm, which all that learns is clipped by.
        moves = any(stage.projector_lr > 0 for stage in recipe.stages)
        self.trainable = TrainableModel(model, recipe.lora, preference, projector=moves)
        groups = self.trainable.groups()
        self._optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "name": name, "weight_decay": recipe.weight_decay}
                for name, parameters in groups.items()
            ],
            betas=(0.9, 0.98),
            fused=self._accelerator.device.type == "cuda",
        )
        self._trained = [parameter for parameters in groups.values() for parameter in parameters]
        self._module, self._optimizer = self._accelerator.prepare(self.trainable, self._optimizer)
        self.step = 0
        self.seen = {"sequences": 0, "tokens": 0, "seconds": 0.0}
        self.figures: dict[str, float] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._state_path, self._log_path = directory / "state.pt", directory / "log.jsonl"
        if self._state_path.exists():
            self._load()
        if self._accelerator.is_main_process:
            self._drop_lost_lines()

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.steps

    def run(self, max_minutes: float | None = None) -> bool:
        """Train until the end, or until the time is over.

        Returns:
            Whether the run is finished; otherwise call again, in this process or another.
        """
        began = time.monotonic()
        recipe = self.recipe
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        if self.step == 0:
            self._begin()
        dataset = BucketedDataset(self._source, self.packer, recipe.batch_size, recipe.bucket, world, rank)
        stream = self._with_features(batches(dataset, self.step * recipe.accumulation, recipe.workers))
        self.trainable.train()
        losses: list[torch.Tensor] = []
        tokens = sequences = 0
        clock = time.monotonic()
        while not self.finished:
            if max_minutes is not None and time.monotonic() - began > 60 * max_minutes:
                break
            rates = learning_rates(recipe, self.step)
            for group, value in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = value
            for _ in range(recipe.accumulation):
                item = next(stream)
                losses.append(self._pass(item))
                sequences += len(item.images)
                tokens += item.batch.ids.numel()
            self.step += 1
            if self.step % recipe.log_every == 0 or self.finished:
                seconds = time.monotonic() - clock
                new = {"sequences": sequences * world, "tokens": tokens * world, "seconds": seconds}
                self.seen = {name: value + new[name] for name, value in self.seen.items()}
                self._log(
                    step=self.step,
                    loss=float(torch.stack(losses).mean()),
                    tokens_per_second=tokens * world / seconds,
                    projector_lr=rates[0],
                    lora_lr=rates[1],
                    **self.seen,
                )
                losses, tokens, sequences, clock = [], 0, 0, time.monotonic()
            if self.step % recipe.evaluate_every == 0 or self.finished:
                self._evaluate()
                clock = time.monotonic()
            if self.step % recipe.checkpoint_every == 0 and not self.finished:
                self._save()
        self._save()
        return self.finished

    def _begin(self) -> None:
        """What comes before the first step: features and the projector's start."""
        if self.recipe.precompute:
            began = time.monotonic()
            self.store.compute(self._source.images(), batch_size=128, workers=self.recipe.workers or 1)
            self._log(step=0, features_seconds=time.monotonic() - began)
        if self.recipe.start == "closed_form":
            assert isinstance(self._source, Mixture)  # only there is it known what lies where in an image
            images = grounded_images(self._source)
            if not self.recipe.precompute:
                # Only what is there already: the start must not wait for the slowest part of the work.
                cached = [pair for pair in images if pair[0] in self.store]
                images = cached if len(cached) >= min(500, len(images)) else images[:500]
            began = time.monotonic()
            count = closed_form_projector(self.trainable.model, self.packer.tokenizer, self.store, images)
            seconds = time.monotonic() - began
            self._log(step=0, closed_form_tokens=count, closed_form_images=len(images), closed_form_seconds=seconds)
        self._evaluate()

    def _with_features(self, stream: Iterator[Images]) -> Iterator[Images]:
        """The same batches, features of several computed together when they are first needed."""
        while some := list(islice(stream, self.recipe.bucket)):
            self.store.compute(image for item in some for image in item.images)
            yield from some

    def _pass(self, item: Images) -> torch.Tensor:
        """One forward and backward pass, and a step where enough gradients have come together."""
        device = self._accelerator.device
        with self._accelerator.accumulate(self._module):
            loss = self._module(item.batch.to(device), self.store.get(item.images).to(device)).value
            self._accelerator.backward(loss)
            if self._accelerator.sync_gradients:
                self._accelerator.clip_grad_norm_(self._trained, self.recipe.clip)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return loss.detach()

    def _evaluate(self) -> None:
        if self._evaluator is not None and self._accelerator.is_main_process:
            began = time.monotonic()
            self.figures = self._evaluator.evaluate(self.trainable, boxes=self.step > 0)
            self._log(step=self.step, held_out=self.figures, held_out_seconds=time.monotonic() - began)

    def _log(self, **line: Any) -> None:
        if not self._accelerator.is_main_process:
            return
        with self._log_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self._report(line)

    def _save(self) -> None:
        """State, and bridge where there is one, each replaced in one step."""
        self._accelerator.wait_for_everyone()
        if not self._accelerator.is_main_process:
            return
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "seen": self.seen,
            "figures": self.figures,
            "trained": self.trainable.trained(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        with replacing(self._state_path) as part:
            torch.save(state, part)
        if self._teaches_a_bridge:
            history = {"trained_on": dict(self.seen), "training_probes": self.figures}
            export_bridge(self.directory / "bridge", self.trainable, self.recipe, self.step, history)

    def _load(self) -> None:
        state = torch.load(self._state_path, map_location="cpu", weights_only=True)
        before = recipe_of(state["recipe"], str(self._state_path))
        # The length may change (its curve is then followed from this step on), and what only concerns looking.
        changed = [
            field.name
            for field in fields(Recipe)
            if field.name not in _MAY_CHANGE and getattr(before, field.name) != getattr(self.recipe, field.name)
        ]
        if changed:
            raise UserError(
                f"{self.directory} holds a run of another recipe ({', '.join(changed)} differ); choose another --out"
            )
        self.step, self.seen, self.figures = state["step"], state["seen"], state["figures"]
        self.trainable.load_trained(state["trained"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_random"])

    def _drop_lost_lines(self) -> None:
        """Lines of steps that were lost will be written again; the last one may have been cut off."""
        if not self._log_path.exists():
            return
        kept = []
        for line in self._log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                if self._state_path.exists() and json.loads(line)["step"] <= self.step:
                    kept.append(line)
        write_text(self._log_path, "".join(f"{line}\n" for line in kept))
