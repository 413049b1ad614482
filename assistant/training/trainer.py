"""The loop: batches, steps, held-out measurements, checkpoints from which a run goes on as if never interrupted."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list

from fourfold.assistant.files import replacing, write_text
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.training.bridge import export_bridge
from fourfold.assistant.training.compiled import compile_if_faster, uncompile
from fourfold.assistant.training.data.heldout import HELD_OUT_SOURCES
from fourfold.assistant.training.data.mixture import Mixture
from fourfold.assistant.training.dataset import BucketedDataset, Images, Source, batches
from fourfold.assistant.training.evaluator import Evaluator
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.packing import Packer
from fourfold.assistant.training.preference import Preference
from fourfold.assistant.training.recipe import Recipe, recipe_of
from fourfold.assistant.training.schedule import Pace, learning_rates, with_steps
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.assistant.training.warm_start import closed_form_projector, discriminant_projector, grounded_images
from fourfold.prompts.errors import UserError

Report = Callable[[Mapping[str, Any]], None]
_MAY_CHANGE = ("stages", "log_every", "evaluate_every", "checkpoint_every", "held_out_items", "workers", "compile")


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
        # Not its mixed precision: the model itself says what is in bfloat16, and casts no frozen matrix in every step.
        self._accelerator = Accelerator(gradient_accumulation_steps=recipe.accumulation, mixed_precision="no")
        if self._accelerator.device.type == "cuda":
            # cuDNN's attention makes a plan for each new length: up to a second.
            torch.backends.cuda.enable_cudnn_sdp(False)
        model.to(self._accelerator.device)
        torch.manual_seed(recipe.seed)
        self.store = FeatureStore(model, processor, features)
        self._has_features = False  # of all images, where the recipe asks for that
        self.packer = Packer(processor, recipe.box_tens)
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
        self._end: float | None = None  # of the time that `run` may take
        self._pace = Pace(recipe)
        self._is_compiled = False
        directory.mkdir(parents=True, exist_ok=True)
        self._state_path, self._log_path = directory / "state.pt", directory / "log.jsonl"
        if self._state_path.exists():
            self._load()
        if self._accelerator.is_main_process:
            self._drop_lost_lines()

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.steps

    def run(self, max_minutes: float | None = None, fit: bool = False, pause_file: Path | None = None) -> bool:
        """Train until the end, or until the time is over. Several processes stop and pause at lines of the log only.

        Args:
            max_minutes: the time, features, start, evaluations and pauses included; None for no limit.
            fit: make it as many steps as fit into the time before the last evaluation, whatever number the recipe has,
                so that the learning rate comes down just then. Set anew with every line of the log.
            pause_file: no step is made while this file exists.

        Returns:
            Whether the run is finished; otherwise call again, in this process or another.
        """
        self._end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        recipe = self.recipe
        world, rank = self._accelerator.num_processes, self._accelerator.process_index
        if recipe.precompute and not (self.finished or self._has_features):
            self._compute_features()
        if self.step == 0:
            self._begin()
        dataset = BucketedDataset(self._source, self.packer, recipe.batch_size, recipe.bucket, world, rank)
        stream = self._with_features(batches(dataset, self.step * recipe.accumulation, recipe.workers))
        self.trainable.train()
        with contextlib.ExitStack() as stack:
            if recipe.compile and not self.finished and self._accelerator.device.type == "cuda":
                stream = self._compiled(stream)
                stack.enter_context(torch.compiler.set_stance("eager_on_recompile"))
            self._train(stream, fit, pause_file)
        self._save()
        return self.finished

    def _train(self, stream: Iterator[Images], fit: bool, pause_file: Path | None) -> None:
        """The steps, with what comes between them."""
        recipe, world = self.recipe, self._accelerator.num_processes
        losses: list[torch.Tensor] = []
        tokens = sequences = 0
        last, clock = self.step, time.monotonic()
        while not self.finished:
            if world == 1 or self.step % recipe.log_every == 0:
                if pause_file is not None and self._agreed(pause_file.exists()):
                    clock += self._pause(pause_file)
                if self._end is not None and not fit and self._agreed(time.monotonic() > self._end):
                    break
            rates = learning_rates(self.recipe, self.step)
            for group, value in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = value
            for _ in range(recipe.accumulation):
                item = next(stream)
                losses.append(self._pass(item))
                sequences += len(item.batch.ids)
                tokens += item.batch.ids.numel()
            self.step += 1
            if fit and world == 1 and self._seconds_for_steps() <= 0:  # several agree at lines of the log alone
                self._fit(0)
            if self.step % recipe.log_every == 0 or self.finished:
                loss = float(torch.stack(losses).mean())  # which waits for the device
                seconds = time.monotonic() - clock
                self._pace.add(self.step - last, seconds)
                if fit and not self.finished and (each := self._pace.step):
                    self._fit(max(0, int(self._seconds_for_steps() / each)))
                new = {"sequences": sequences * world, "tokens": tokens * world, "seconds": seconds}
                self.seen = {name: value + new[name] for name, value in self.seen.items()}
                self._log(
                    step=self.step,
                    steps=self.recipe.steps,
                    loss=loss,
                    tokens_per_second=tokens * world / seconds,
                    projector_lr=rates[0],
                    lora_lr=rates[1],
                    **self.seen,
                    **self._minutes_left(),
                )
                losses, tokens, sequences, last, clock = [], 0, 0, self.step, time.monotonic()
            if self.step % recipe.evaluate_every == 0 or self.finished:
                began = time.monotonic()
                self._evaluate()
                clock += time.monotonic() - began
            if self.step % recipe.checkpoint_every == 0 and not self.finished:
                began = time.monotonic()
                self._save()
                self._pace.checkpoint = time.monotonic() - began
                clock += self._pace.checkpoint

    def _seconds_for_steps(self) -> float:
        """Left of the time, but for the last evaluation and the last files."""
        assert self._end is not None
        return self._end - time.monotonic() - self._pace.evaluation - 2 * self._pace.checkpoint - 1

    def _minutes_left(self) -> dict[str, float]:
        """An estimate, without pauses, once there is one."""
        if (each := self._pace.step) is None:
            return {}
        last = 0.0 if self.step % self.recipe.evaluate_every == 0 else self._pace.evaluation
        return {"minutes_left": ((self.recipe.steps - self.step) * each + last) / 60}

    def _fit(self, more: int) -> None:
        """Make `more` steps the last ones."""
        self.recipe = with_steps(self.recipe, self.step, self.step + self._agreed(more))

    def _agreed(self, said: int) -> int:
        """What the first process says: several that went by clocks of their own would wait for each other in vain."""
        if self._accelerator.num_processes > 1:
            (said,) = broadcast_object_list([said])
        return said

    def _pause(self, file: Path) -> float:
        """Wait while the file exists and there is time; how many seconds."""
        began = time.monotonic()
        self._save()
        self._report({"step": self.step, "paused": f"until {file} is removed"})
        while file.exists() and (self._end is None or time.monotonic() < self._end):
            time.sleep(0.2)
        seconds = time.monotonic() - began
        self._log(step=self.step, paused_seconds=seconds)
        return seconds

    def _compiled(self, stream: Iterator[Images]) -> Iterator[Images]:
        """Compile the layers if that is worth it; the stream with the batches that were looked at in front."""
        if self.recipe.lora.dropout:
            self._log(step=self.step, compiled=False, not_compiled="lora.dropout is not 0")
            return stream
        device = self._accelerator.device
        some = list(islice(stream, self.recipe.bucket))
        by_length = {item.batch.ids.shape[1]: item for item in some if len(item.images)}
        lengths = sorted(by_length)
        chosen = [by_length[lengths[place * (len(lengths) - 1) // 2]] for place in range(3)] if lengths else []
        tried = [(item.batch.to(device), self.store.get(item.images).to(device)) for item in chosen]
        if tried:
            told = compile_if_faster(self.trainable, tried)
            self._is_compiled = told["compiled"]
            self._log(step=self.step, **told)
        return chain(some, stream)

    def _compute_features(self) -> None:
        """Of all that is shown and asked about; a run that goes on may have lost them with its memory."""
        began = time.monotonic()
        asked = self._evaluator.images() if self._evaluator is not None else ()
        batch_size = 256 if self._accelerator.device.type == "cuda" else 128
        self.store.compute(chain(self._source.images(), asked), batch_size=batch_size, workers=self.recipe.workers)
        self._has_features = True
        self._log(step=self.step, features_seconds=time.monotonic() - began)

    def _begin(self) -> None:
        """What else comes before the first step: the projector's start and a first evaluation."""
        if self.recipe.start != "random":
            assert isinstance(self._source, Mixture)  # only there is it known what lies where in an image
            images = grounded_images(self._source)
            if not self.recipe.precompute:
                # Only what is there already: the start must not wait for the slowest part of the work.
                cached = [pair for pair in images if pair[0] in self.store]
                images = cached if len(cached) >= min(500, len(images)) else images[:500]
            began = time.monotonic()
            start = discriminant_projector if self.recipe.start == "discriminants" else closed_form_projector
            count = start(self.trainable.model, self.packer.tokenizer, self.store, images)
            for parameter in self.trainable.model.model.projector.parameters():
                broadcast(parameter.data)  # each process had its own, up to rounding or to what was cached
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
            batch, features = item.batch.to(device), self.store.get(item.images).to(device)
            try:
                loss = self._module(batch, features).value
                self._accelerator.backward(loss)
            except Exception as error:
                # Of several processes one cannot begin anew: the others wait for its gradients.
                if not self._is_compiled or self._accelerator.num_processes > 1:
                    raise
                uncompile(self.trainable)
                self._is_compiled = False
                self._log(step=self.step, compiled=False, not_compiled=f"{type(error).__name__}: {error}"[:500])
                self.trainable.zero_grad()
                loss = self._module(batch, features).value
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
            seconds = time.monotonic() - began
            self._pace.evaluated(seconds, boxes=self.step > 0)
            self._log(step=self.step, held_out=self.figures, held_out_seconds=seconds)

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
