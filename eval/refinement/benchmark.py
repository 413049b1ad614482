"""What corrections are worth: a scripted teacher corrects the model, it learns, and is asked again.

One line of `rows.jsonl` is one way of learning (an arm) from so many corrections of one subject. Lines are kept as they
come and never measured twice, so a run may be stopped, and asked for in pieces.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fourfold.assistant.refine.recipe import Refinement, read_refinement
from fourfold.eval.log import AnswerLog, model_fingerprint
from fourfold.eval.refinement.arms import ARMS, CURVE, Arm
from fourfold.eval.refinement.classroom import Classroom
from fourfold.eval.refinement.slices import sources_here
from fourfold.eval.refinement.table import write_table
from fourfold.eval.refinement.teacher import SUBJECTS
from fourfold.prompts.errors import UserError


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


def run_refinement(options: Options, note: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
    """Measure everything that is not in `rows.jsonl` yet, and write `table.md` and `curve.png` after every row.

    Args:
        options: what to measure.
        note: is told what could not be measured.

    Returns:
        The rows of this configuration, those of earlier runs too.

    Raises:
        UserError: the model cannot be loaded, or a subject's photos are not here.
    """
    refinement = options.recipe or read_refinement()
    sources = options.sources or tuple(sources_here())
    model = model_fingerprint(options.model)
    configuration = {
        "suite": "refinement", "model": model, "refinement": asdict(refinement), "limit": options.limit,
        "seed": options.seed, "max_steps": options.max_steps, "sources": sources,
    }  # fmt: skip
    with AnswerLog(options.out / "rows.jsonl", configuration) as rows:
        for name in options.subjects:
            classroom = Classroom(
                SUBJECTS[name],
                options.model,
                options.out,
                refinement,
                configuration,
                most=max((*options.counts, options.count)),
                device=options.device,
            )
            with closing(classroom):
                for arm, count in options.runs():
                    key = f"{name}/{arm.name}/{count}"
                    if key in rows.done:
                        continue
                    found = classroom.measure(arm, count)
                    if found is None:
                        note(f"{key}: left out, the teacher found too few mistakes")
                        continue
                    rows.add(key, subject=name, arm=arm.name, count=count, seed=options.seed, **found)
                    write_table(list(rows.done.values()), options.out)
        done = list(rows.done.values())
    write_table(done, options.out)
    return done
