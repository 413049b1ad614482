"""What corrections are worth: a scripted teacher corrects the model, it learns, and is asked again.

One line of `rows.jsonl` is one way of learning (an arm) from so many corrections of one subject. Lines are kept as they
come and never measured twice, so a run may be stopped, and asked for in pieces.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.refine.learn import train
from assistant.refine.recipe import Refinement, read_refinement
from assistant.refine.samples import plain
from assistant.refine.store import CorrectionStore
from assistant.training.data import Sample
from eval.answers import AnswerLog, model_fingerprint, write_whole
from eval.refinement.arms import ARMS, CURVE, Arm
from eval.refinement.gate import compare
from eval.refinement.slices import Slice, ask, sample_slice, scores_of, sources_here, untouched_slices
from eval.refinement.teacher import SUBJECTS, Subject, correct, draw, image_bytes
from eval.statistics import clustered_mean
from prompts.errors import UserError

if TYPE_CHECKING:
    from serving.engine import Engine

_ASKED_FOR_ONE = 12
"""Questions that the teacher asks at most to find one wrong answer."""
_UNTOUCHED = ("existence", "colour", "count", "relation", "what", "text", "annotated", "caption", "refer", "identify")
"""Kinds of the card: all but the two whose answers are longest and which the default model hardly can."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        model: the checkpoint.
        out: folder of the run.
        subjects: names of kinds of corrections.
        arms: names of ways of learning.
        counts: numbers of corrections for the arms of the curve.
        count: number of corrections for all other arms.
        limit: held-out questions of the subject; a quarter as many of each untouched kind.
        sources: of untouched questions; None for those on this machine.
        seed: of the teacher, and of training.
        recipe: settings of the refinement; None for the default's.
        max_steps: optimiser steps at most.
        device: as for `Engine.load`.
    """

    model: Path
    out: Path
    subjects: tuple[str, ...] = ("washer", "person", "corner")
    arms: tuple[str, ...] = tuple(ARMS)
    counts: tuple[int, ...] = (8, 32, 128)
    count: int = 32
    limit: int = 100
    sources: tuple[str, ...] | None = None
    seed: int = 0
    recipe: Refinement | None = None
    max_steps: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for what, given, known in (("subject", self.subjects, SUBJECTS), ("arm", self.arms, ARMS)):
            if unknown := sorted(set(given) - set(known)):
                raise UserError(f"the refinement benchmark knows no {what} {unknown[0]!r}; it has: {', '.join(known)}")
        if min((*self.counts, self.count)) < 1 or self.limit < 4:
            raise UserError("counts of corrections begin at 1, and the limit at 4 questions")

    def runs(self) -> list[tuple[Arm, int]]:
        """What to train, in order: at each number of corrections, and at one."""
        curve = [(ARMS[name], count) for count in sorted(set(self.counts)) for name in self.arms if name in CURVE]
        return curve + [(ARMS[name], self.count) for name in self.arms if name not in CURVE]


def run_refinement(options: Options) -> list[dict[str, Any]]:
    """Measure everything that is not in `rows.jsonl` yet, and write `table.md` and `curve.png` after every row.

    Returns:
        The rows of this configuration, those of earlier runs too.

    Raises:
        UserError: the model cannot be loaded, or a subject's photos are not here.
    """
    refinement = options.recipe or read_refinement()
    configuration = {
        "suite": "refinement", "model": model_fingerprint(options.model), "refinement": asdict(refinement),
        "limit": options.limit, "seed": options.seed, "max_steps": options.max_steps,
        "sources": list(options.sources or sources_here()),
    }  # fmt: skip
    with AnswerLog(options.out / "rows.jsonl", configuration) as rows:
        for name in options.subjects:
            lesson = _Classroom(SUBJECTS[name], options, refinement, configuration)
            for arm, count in options.runs():
                key = f"{name}/{arm.name}/{count}"
                if key not in rows.done:
                    found = lesson.measure(arm, count)
                    if found is not None:
                        rows.add(key, subject=name, arm=arm.name, count=count, seed=options.seed, **found)
                        _write(list(rows.done.values()), options.out)
        done = list(rows.done.values())
    _write(done, options.out)
    return done


class _Classroom:
    """One subject: its questions, the mistakes of the model as it was shipped, and what came of correcting them."""

    def __init__(
        self, subject: Subject, options: Options, refinement: Refinement, configuration: dict[str, Any]
    ) -> None:
        self.subject, self._options, self._refinement = subject, options, refinement
        self._folder = options.out / subject.name
        self._configuration = configuration
        self._mistakes: list[tuple[Sample, str]] = []
        self._slices: list[Slice] = []

    def measure(self, arm: Arm, count: int) -> dict[str, Any] | None:
        """The row of an arm; None where the model does not make so many mistakes."""
        if not self._slices:
            self._prepare()
        if len(self._mistakes) < count:
            return None
        mistakes = self._mistakes[:count]
        slices = [self._corrected(mistakes), *self._slices]
        store = self._store(arm, count, mistakes)
        told: dict[str, Any] = {}
        adapter = None
        if arm.trained:
            began, clock = time.process_time(), time.monotonic()
            adapter = self._folder / "adapters" / f"{arm.name}-{count}".replace(" ", "-").replace(",", "")
            shutil.rmtree(adapter, ignore_errors=True)
            train(
                store, self._options.model, adapter, max_steps=self._options.max_steps, seed=self._options.seed,
                recipe=arm.settings(self._refinement), features=self._options.out / "features",
            )  # fmt: skip
            training = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
            told = {
                "cpu_minutes": (time.process_time() - began) / 60,
                "minutes": (time.monotonic() - clock) / 60,
                "steps": training["steps"],
                "adapter_bytes": training.get("adapter_bytes"),
                "losses": training["losses"],
            }
        log = self._log({"arm": arm.name, "count": count})
        with log, self._engine(adapter) as engine:
            self._ask(engine, slices, arm, store, "adapter" if adapter is not None and arm.lora else "", log)
        before = self._log({})
        measured = []
        for part in slices:
            was, now = scores_of(part, before)[1], scores_of(part, log)[1]
            measured.append(compare(part.name, "untouched", was, now, part.images).to_json())
        return {**told, "slices": measured, "untouched": self._together(before, log)}
