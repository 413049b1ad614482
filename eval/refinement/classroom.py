"""One subject of the benchmark: what the model gets wrong as it is, and what becomes of it after learning."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.refine.encoder import ImageEncoder
from assistant.refine.learn import train
from assistant.refine.memory import Memory
from assistant.refine.recipe import Refinement
from assistant.refine.store import CorrectionStore
from assistant.training.data import Sample
from eval.answers import AnswerLog
from eval.refinement.arms import Arm
from eval.refinement.gate import compare
from eval.refinement.slices import OUT_OF_USE, Slice, ask, sample_slice, scores_of, untouched_slices
from eval.refinement.teacher import Subject, correct, draw, image_bytes

if TYPE_CHECKING:
    from serving.engine import Engine

_PATIENCE = 12
"""Questions that the teacher asks at most, on average, to find one wrong answer."""
_UNTOUCHED = ("existence", "colour", "count", "relation", "what", "text", "annotated", "caption", "refer", "identify")
"""Kinds of the card: all but the two whose answers are the longest, and which the default model hardly can."""
_RELATED_TOKENS = 32


class Classroom:
    """A subject, its questions, and the mistakes that the teacher finds.

    Args:
        subject: what is taught.
        model: the checkpoint.
        out: folder of the run.
        refinement: settings that the arms change.
        configuration: of the run: everything that answers depend on but arm and number of corrections.
        most: corrections that are wanted at most.
        device: as for `Engine.load`.
    """

    def __init__(
        self,
        subject: Subject,
        model: Path,
        out: Path,
        refinement: Refinement,
        configuration: Mapping[str, Any],
        *,
        most: int,
        device: str = "auto",
    ) -> None:
        self._subject, self._model, self._out = subject, model, out
        self._refinement, self._configuration = refinement, dict(configuration)
        self._most, self._device = most, device
        self._folder = out / subject.name
        self._mistakes: list[tuple[Sample, str]] = []
        self._slices: list[Slice] = []

    def measure(self, arm: Arm, count: int) -> dict[str, Any] | None:
        """Correct, learn, ask again.

        Returns:
            The row: figures of every slice before and after, and what it cost. None where the teacher found fewer
            mistakes than are to be corrected.
        """
        if not self._slices:
            self._prepare()
        if len(self._mistakes) < count:
            return None
        mistakes = self._mistakes[:count]
        samples = [sample for sample, _ in mistakes]
        slices = [
            sample_slice("corrected", self._subject.kind, samples, self._subject.max_tokens),
            *self._slices,
        ]
        store = self._corrected(arm, mistakes)
        adapter, cost = self._train(arm, store, count) if arm.trained else (None, {})
        log = self._log(arm.name, count)
        if any(item.key not in log.done for part in slices for item in part.items):
            with log, self._engine(adapter) as (engine, name):
                memory = Memory(CorrectionStore(store), ImageEncoder(self._model)) if arm.remembered else None
                ask(engine, slices, name, log, f"{self._subject.name}, {arm.name}, {count}", memory)
        before = self._log("as shipped", 0)
        measured = {part.name: self._compare(part, before, log) for part in slices}
        untouched = [part for part in slices if "/" in part.name]
        return {**cost, "slices": measured, "untouched": self._compare(_together(untouched), before, log)}

    def _prepare(self) -> None:
        """Choose the questions, ask the model as it was shipped, and find its mistakes in the stream."""
        subject, limit, seed = self._subject, self._configuration["limit"], self._configuration["seed"]
        tested, stream = draw(subject, seed, limit)
        own = sample_slice("held out", subject.kind, tested, subject.max_tokens)
        slices = [own]
        few = max(4, limit // 4)
        if subject.related is not None:
            for kind, samples in subject.related(tested).items():
                slices.append(sample_slice(f"related {kind}", kind, samples, _RELATED_TOKENS))
        log = self._log("as shipped", 0)
        with log, self._engine(None) as (engine, name):
            asked = 0
            while len(self._mistakes) < self._most and asked < _PATIENCE * self._most:
                part = list(islice(stream, 32))
                if not part:
                    break
                asked += len(part)
                questions = sample_slice("stream", subject.kind, part, subject.max_tokens)
                ask(engine, [questions], name, log, f"{subject.name}, looking for mistakes")
                answers = scores_of(questions, log)[0]
                right = subject.right(part, answers)
                self._mistakes += [
                    (sample, answer) for sample, answer, good in zip(part, answers, right, strict=True) if not good
                ]
            seen = {sample.image.id for sample, _ in self._mistakes}
            if subject.alike is not None:
                alike = islice((one for one in subject.alike(seed) if one.image.id not in seen), limit)
                slices.append(sample_slice("alike", subject.alike_kind, list(alike), subject.max_tokens))
            untouched = untouched_slices(
                self._configuration["sources"], few, seed, kinds=_UNTOUCHED, without=seen, retired=subject.retired
            )
            slices += [part for part in untouched if not part.name.endswith(OUT_OF_USE)]
            ask(engine, slices, name, log, f"{subject.name}, as shipped")
        self._slices = slices

    def _corrected(self, arm: Arm, mistakes: Sequence[tuple[Sample, str]]) -> Path:
        """A store with the teacher's corrections."""
        directory = self._folder / "stores" / f"{arm.form.replace(' ', '-')}-{len(mistakes)}"
        store = CorrectionStore(directory)
        if store.count() != len(mistakes):
            shutil.rmtree(directory)
            store = CorrectionStore(directory)
            for number, (sample, answer) in enumerate(mistakes):
                store.add(
                    correct(sample, answer, arm.form, f"{self._subject.name}-{number}"), image_bytes(sample.image)
                )
        return directory

    def _train(self, arm: Arm, store: Path, count: int) -> tuple[Path, dict[str, Any]]:
        """The arm's adapter and what it cost; one that was trained with the same settings is taken as it is."""
        settings = arm.settings(self._refinement)
        digest = hashlib.sha256(json.dumps([self._configuration, arm.name, count], default=str).encode()).hexdigest()
        adapter = self._folder / "adapters" / f"{arm.name.replace(', ', '-').replace(' ', '-')}-{count}-{digest[:8]}"
        note = adapter.with_suffix(".json")
        if not (adapter.exists() and note.exists()):
            shutil.rmtree(adapter, ignore_errors=True)
            processor, clock = time.process_time(), time.monotonic()
            train(
                store,
                self._model,
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
    def _engine(self, adapter: Path | None) -> Iterator[tuple["Engine", str]]:
        """The engine and the name of what is to be asked; a projector is put into a copy of the checkpoint."""
        from assistant.refine.adapter import with_projector
        from serving.engine import Engine

        with tempfile.TemporaryDirectory(dir=self._out) as folder:
            model = self._model
            if adapter is not None and (adapter / "projector.safetensors").exists():
                model = with_projector(model, adapter / "projector.safetensors", Path(folder) / "model")
            with Engine.load(model, device=self._device) as engine:
                if adapter is not None and (adapter / "adapter_config.json").exists():
                    yield engine, engine.load_adapter("learnt", adapter).name
                else:
                    yield engine, ""

    def _log(self, arm: str, count: int) -> AnswerLog:
        path = self._folder / "answers.jsonl"
        configuration = {**self._configuration, "arm": arm, "count": count}
        if not count:  # what the model answers as it is depends on nothing that is done to it
            configuration = {"model": self._configuration["model"]}
        return AnswerLog(path, configuration)

    @staticmethod
    def _compare(part: Slice, before: AnswerLog, after: AnswerLog) -> dict[str, Any]:
        was, now = (scores_of(part, log)[1] for log in (before, after))
        return compare(part.name, "untouched", was, now, part.images).to_json()


def _together(slices: Sequence[Slice]) -> Slice:
    """All questions of several slices as one, each scored by its own slice's rule."""
    items = tuple(item for part in slices for item in part.items)

    def score(answers: Sequence[str]) -> list[float]:
        scores, start = [], 0
        for part in slices:
            scores += part.score(answers[start : start + len(part.items)])
            start += len(part.items)
        return scores

    return Slice("untouched", items, score)
