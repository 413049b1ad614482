"""One subject of the benchmark: what the model gets wrong as it is, and what becomes of it after learning."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.refine.encoder import ImageEncoder
from fourfold.assistant.refine.learn import train
from fourfold.assistant.refine.memory import Memory
from fourfold.assistant.refine.recipe import Refinement
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.training.data import Sample
from fourfold.eval.log import AnswerLog
from fourfold.eval.refinement.arms import Arm
from fourfold.eval.refinement.gate import compare
from fourfold.eval.refinement.slices import (
    OUT_OF_USE,
    Answers,
    Slice,
    ask,
    load_engine,
    sample_slice,
    scores_of,
    untouched_slices,
)
from fourfold.eval.refinement.teacher import Subject, correct, draw, image_bytes

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

_PATIENCE = 12
"""Questions that the teacher asks at most, on average, to find one wrong answer."""
_UNTOUCHED = ("existence", "colour", "count", "relation", "what", "text", "annotated", "caption", "refer", "identify")
"""Kinds of the card: all but the two whose answers are the longest, and which the default model hardly can."""
_RELATED_TOKENS = 32
_OF_PHOTOS = 128


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
        # Of photos a fixed number, whatever is asked for: those that are learnt from are left out of all other
        # questions, which would else depend on it.
        self._most = max(most, _OF_PHOTOS) if subject.source == "photos" else most
        self._device = device
        self._folder = out / subject.name
        self._mistakes: list[tuple[Sample, str]] = []
        self._slices: list[Slice] = []
        self._open = ExitStack()
        self._shared: Engine | None = None

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
        after = self._answers(slices, adapter, f"{arm.name}, {count}")
        if arm.remembered:
            after = {**after, **self._reminded(slices, adapter, store, f"{arm.name}, {count}")}
        before = self._log(None).done
        measured = {part.name: _compare(part, before, after) for part in slices}
        untouched = _together([part for part in slices if "/" in part.name])
        return {**cost, "slices": measured, "untouched": _compare(untouched, before, after)}

    def _answers(self, slices: Sequence[Slice], adapter: Path | None, title: str) -> Answers:
        """What is answered with an adapter, or as shipped; asked where it is not known."""
        log = self._log(adapter)
        if any(item.key not in log.done for part in slices for item in part.items):
            with log, self._engine(adapter) as (engine, name):
                ask(engine, slices, name, log, f"{self._subject.name}, {title}")
        return log.done

    def _reminded(self, slices: Sequence[Slice], adapter: Path | None, store: Path, title: str) -> Answers:
        """The same for those questions of which the memory knows something; the others it leaves as they are."""
        memory = Memory(CorrectionStore(store), ImageEncoder(self._model))
        known = [
            Slice(part.name, items, part.score)
            for part in slices
            if (items := tuple(item for item in part.items if memory.recall(item.image.open(), item.question)))
        ]
        log = self._log(adapter, store.name)
        if any(item.key not in log.done for part in known for item in part.items):
            with log, self._engine(adapter) as (engine, name):
                ask(engine, known, name, log, f"{self._subject.name}, {title}", memory)
        return log.done

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
        log = self._log(None)
        with log, self._engine(None) as (engine, name):
            asked = 0
            while len(self._mistakes) < self._most and asked < _PATIENCE * self._most:
                part = list(islice(stream, 32))
                if not part:
                    break
                asked += len(part)
                questions = sample_slice("stream", subject.kind, part, subject.max_tokens)
                ask(engine, [questions], name, log, f"{subject.name}, looking for mistakes")
                answers = scores_of(questions, log.done)[0]
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
        digest = _digest([self._configuration["model"], self._configuration["seed"]])
        directory = self._folder / "stores" / f"{arm.form.replace(' ', '-')}-{len(mistakes)}-{digest}"
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
        run = {name: self._configuration[name] for name in ("model", "seed", "max_steps")}
        # Not by the arm's name: with and without memory the adapter is the same.
        adapter = self._folder / "adapters" / f"{count}-{_digest([run, asdict(settings), arm.form])}"
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
        """The engine and the name of what is to be asked.

        One engine serves all adapters, so that an image is encoded once for all of them. A projector is put into a copy
        of the checkpoint, which has an engine of its own.
        """
        from fourfold.assistant.refine.adapter import with_projector

        if adapter is not None and (adapter / "projector.safetensors").exists():
            with tempfile.TemporaryDirectory(dir=self._out) as folder:
                model = with_projector(self._model, adapter / "projector.safetensors", Path(folder) / "model")
                with load_engine(model, self._device) as engine, _loaded(engine, adapter) as name:
                    yield engine, name
            return
        if self._shared is None:
            self._shared = self._open.enter_context(load_engine(self._model, self._device))
        with _loaded(self._shared, adapter) as name:
            yield self._shared, name

    def close(self) -> None:
        """Let the engine go."""
        self._open.close()

    def _log(self, adapter: Path | None, reminded: str = "") -> AnswerLog:
        """Answers of the model as shipped, or with an adapter, and with a memory by its name.

        Answers depend on nothing else, so other runs with the same folder find them.
        """
        configuration = {"model": self._configuration["model"], "adapter": adapter and adapter.name, "memory": reminded}
        return AnswerLog(self._folder / "answers.jsonl", configuration)


def _compare(part: Slice, before: Answers, after: Answers) -> dict[str, Any]:
    was, now = (scores_of(part, answers)[1] for answers in (before, after))
    return compare(part.name, "untouched", was, now, part.images).to_json()


@contextmanager
def _loaded(engine: "Engine", adapter: Path | None) -> Iterator[str]:
    """The name to ask by while an adapter is loaded; "" for the model as it was shipped."""
    if adapter is None or not (adapter / "adapter_config.json").exists():
        yield ""
        return
    name = engine.load_adapter("learnt", adapter).name
    try:
        yield name
    finally:
        engine.unload_adapter(name)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:10]


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
