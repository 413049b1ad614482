"""One scenario: what the model gets wrong as it is, and what becomes of it after learning."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from fourfold.assistant.refine.memory import CorrectionMemory
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.learn import train
from fourfold.assistant.refine.training.recipe import Refinement
from fourfold.assistant.training import data
from fourfold.eval.experiments.arms import Arm
from fourfold.eval.experiments.simulated_user import Scenario, attachment, correct, draw
from fourfold.eval.gate import compare, exact_dtype
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Model, Output
from fourfold.eval.run import run
from fourfold.eval.task import Task
from fourfold.eval.tasks.corrections import (
    OUT_OF_USE,
    answers_of,
    held_out_task,
    scores_of,
    together,
    untouched_tasks,
)

_PATIENCE = 12
"""Questions that the user asks at most, on average, to find one wrong answer."""
_UNTOUCHED = ("existence", "colour", "count", "relation", "what", "text", "annotated", "caption", "refer", "identify")
"""Kinds of the card: all but the two whose answers are the longest, and which the default model hardly can."""
_RELATED_TOKENS = 32
_OF_PHOTOS = 128

Outputs = Mapping[str, Output]


class Experiment:
    """A scenario, its questions, and the mistakes that the simulated user finds.

    Args:
        scenario: what is corrected.
        model: the checkpoint.
        out: folder of the run.
        refinement: settings that the arms change.
        configuration: of the run: everything that answers depend on but arm and number of corrections.
        most: corrections that are wanted at most.
        device: as for `Engine.load`.
    """

    def __init__(
        self,
        scenario: Scenario,
        model: Path,
        out: Path,
        refinement: Refinement,
        configuration: Mapping[str, Any],
        *,
        most: int,
        device: str = "auto",
    ) -> None:
        self._scenario, self._out = scenario, out
        self._refinement, self._configuration = refinement, dict(configuration)
        # Of photos a fixed number, whatever is asked for: those that are learnt from are left out of all other
        # questions, which would else depend on it.
        self._most = max(most, _OF_PHOTOS) if scenario.source == "photos" else most
        self._device = device
        self._folder = out / scenario.name
        self._mistakes: list[tuple[data.Sample, str]] = []
        self._tasks: list[Task] = []
        self._model = EngineModel(model, device=device, dtype=exact_dtype(device))

    def measure(self, arm: Arm, count: int) -> dict[str, Any] | None:
        """Correct, learn, ask again.

        Returns:
            The row: figures of every task before and after, and what it cost. None where the user found fewer mistakes
            than are to be corrected.
        """
        if not self._tasks:
            self._prepare()
        if len(self._mistakes) < count:
            return None
        mistakes = self._mistakes[:count]
        samples = [sample for sample, _ in mistakes]
        corrected = held_out_task("corrected", self._scenario.kind, samples, self._scenario.max_tokens)
        tasks = [corrected, *self._tasks]
        store = self._corrected(arm, mistakes)
        adapter, cost = self._train(arm, store, count) if arm.trained else (None, {})
        before = self._ask(tasks, None, "as shipped")
        after = self._ask(tasks, adapter, f"{arm.name}, {count}")
        if arm.remembered:
            after = {**after, **_remembered(tasks, store)}
        untouched = together("untouched", [task for task in tasks if "/" in task.name])
        measured = {task.name: _compare(task, before, after) for task in tasks}
        return {**cost, "slices": measured, "untouched": _compare(untouched, before, after)}

    def _ask(self, tasks: Sequence[Task], adapter: Path | None, title: str) -> Outputs:
        """What is answered with an adapter, or as shipped.

        Answers depend on nothing else, so other runs with the same folder find them.
        """
        configuration = {"model": self._configuration["model"], "adapter": adapter and adapter.name}
        with EvalLog(self._folder / "answers.jsonl", configuration) as log, self._answering(adapter) as model:
            return run(together(f"{self._scenario.name}, {title}", tasks), model, log)

    def _prepare(self) -> None:
        """Choose the questions, ask the model as it was shipped, and find its mistakes in the stream."""
        scenario, limit, seed = self._scenario, self._configuration["limit"], self._configuration["seed"]
        tested, stream = draw(scenario, seed, limit)
        tasks = [held_out_task("held out", scenario.kind, tested, scenario.max_tokens)]
        if scenario.related is not None:
            for kind, samples in scenario.related(tested).items():
                tasks.append(held_out_task(f"related {kind}", kind, samples, _RELATED_TOKENS))
        asked = 0
        while len(self._mistakes) < self._most and asked < _PATIENCE * self._most:
            part = list(islice(stream, 32))
            if not part:
                break
            asked += len(part)
            questions = held_out_task("stream", scenario.kind, part, scenario.max_tokens)
            answers = answers_of(questions, self._ask([questions], None, "looking for mistakes"))
            right = scenario.right(part, answers)
            self._mistakes += [
                (sample, answer) for sample, answer, good in zip(part, answers, right, strict=True) if not good
            ]
        seen = {sample.image.id for sample, _ in self._mistakes}
        if scenario.alike is not None:
            alike = islice((one for one in scenario.alike(seed) if one.image.id not in seen), limit)
            tasks.append(held_out_task("alike", scenario.alike_kind, list(alike), scenario.max_tokens))
        untouched = untouched_tasks(
            self._configuration["sources"],
            max(4, limit // 4),
            seed,
            kinds=_UNTOUCHED,
            without=seen,
            superseded=scenario.superseded,
        )
        self._tasks = [*tasks, *(task for task in untouched if not task.name.endswith(OUT_OF_USE))]

    def _corrected(self, arm: Arm, mistakes: Sequence[tuple[data.Sample, str]]) -> Path:
        """A store with the user's corrections."""
        digest = _digest([self._configuration["model"], self._configuration["seed"]])
        directory = self._folder / "stores" / f"{arm.form.replace(' ', '-')}-{len(mistakes)}-{digest}"
        store = CorrectionStore(directory)
        if store.count() != len(mistakes):
            shutil.rmtree(directory)
            store = CorrectionStore(directory)
            for number, (sample, answer) in enumerate(mistakes):
                correction = correct(sample, answer, arm.form, f"{self._scenario.name}-{number}")
                store.add(correction, attachment(sample.image))
        return directory

    def _train(self, arm: Arm, store: Path, count: int) -> tuple[Path, dict[str, Any]]:
        """The arm's adapter and what it cost; one that was trained with the same settings is taken as it is."""
        settings = arm.settings(self._refinement)
        given = {name: self._configuration[name] for name in ("model", "seed", "max_steps")}
        # Not by the arm's name: with and without memory the adapter is the same.
        adapter = self._folder / "adapters" / f"{count}-{_digest([given, asdict(settings), arm.form])}"
        note = adapter.with_suffix(".json")
        if not (adapter.exists() and note.exists()):
            shutil.rmtree(adapter, ignore_errors=True)
            processor, clock = time.process_time(), time.monotonic()
            train(
                store,
                self._model.checkpoint,
                adapter,
                max_steps=self._configuration["max_steps"],
                seed=self._configuration["seed"],
                recipe=settings,
                features=self._out / "features",
            )
            told = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
            cost = {
                "cpu_minutes": (time.process_time() - processor) / 60,
                "minutes": (time.monotonic() - clock) / 60,
                "steps": told["steps"],
                "adapter_bytes": told.get("adapter_bytes"),
                "losses": told["losses"],
            }
            note.write_text(json.dumps(cost), encoding="utf-8")
        return adapter, json.loads(note.read_text(encoding="utf-8"))

    @contextmanager
    def _answering(self, adapter: Path | None) -> Iterator[Model]:
        """Who answers with an adapter. One engine serves all, so that an image is encoded once for all of them.

        A projector is put into a copy of the checkpoint, which has an engine of its own.
        """
        from fourfold.assistant.refine.adapter import with_projector

        lora = adapter if adapter and (adapter / "adapter_config.json").exists() else None
        if adapter is not None and (adapter / "projector.safetensors").exists():
            with tempfile.TemporaryDirectory(dir=self._out) as folder:
                copy = with_projector(self._model.checkpoint, adapter / "projector.safetensors", Path(folder) / "model")
                with EngineModel(copy, device=self._device, dtype=exact_dtype(self._device), adapter=lora) as model:
                    yield model
            return
        with self._model.with_adapter(lora) as model:
            yield model

    def close(self) -> None:
        """Let the engine go."""
        self._model.close()


def _remembered(tasks: Sequence[Task], store: Path) -> Outputs:
    """What the memory says to those questions that it knows; it leaves the others to the model."""
    memory = CorrectionMemory(CorrectionStore(store))
    found = {}
    for sample in (sample for task in tasks for sample in task.samples):
        picture = sample.picture()
        assert picture is not None
        if recalled := memory.recall(picture, sample.prompt):
            found[sample.id] = Output(recalled.answer)
    return found


def _compare(task: Task, before: Outputs, after: Outputs) -> dict[str, Any]:
    was, now = (scores_of(task, answers_of(task, outputs)) for outputs in (before, after))
    return asdict(compare(task.name, "untouched", was, now, task.clusters))


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:10]
