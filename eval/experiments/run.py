"""All experiments of a run, scenario by scenario and arm by arm.

One line of `rows.jsonl` is one way of learning (an arm) from so many corrections of one scenario (`subject`). Lines are
kept as they come and never measured twice, so a run may be stopped, and asked for in pieces.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.refine.training.recipe import Refinement, read_refinement
from fourfold.eval.experiments.arms import ARMS, CURVE, Arm
from fourfold.eval.experiments.experiment import Experiment
from fourfold.eval.experiments.simulated_user import SCENARIOS
from fourfold.eval.experiments.table import write_table
from fourfold.eval.log import EvalLog
from fourfold.eval.model import Output
from fourfold.eval.tasks.corrections import sources_here
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
        limit: held-out questions of the scenario; a quarter as many of each untouched kind.
        sources: of untouched questions; None for those on this machine.
        seed: of the simulated user, and of training.
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
        for what, given, known in (("subject", self.subjects, SCENARIOS), ("arm", self.arms, ARMS)):
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
        UserError: the model cannot be loaded, or a scenario's photos are not here.
    """
    refinement = options.recipe or read_refinement()
    sources = options.sources or tuple(sources_here())
    model = model_fingerprint(options.model)
    configuration = {
        "suite": "refinement", "model": model, "refinement": asdict(refinement), "limit": options.limit,
        "seed": options.seed, "max_steps": options.max_steps, "sources": sources,
    }  # fmt: skip
    with EvalLog(options.out / "rows.jsonl", configuration) as log:
        found = {key: dict(row.fields) for key, row in log.done.items()}
        for name in options.subjects:
            experiment = Experiment(
                SCENARIOS[name],
                options.model,
                options.out,
                refinement,
                configuration,
                most=max((*options.counts, options.count)),
                device=options.device,
            )
            with closing(experiment):
                for arm, count in options.runs():
                    key = f"{name}/{arm.name}/{count}"
                    if key in found:
                        continue
                    measured = experiment.measure(arm, count)
                    if measured is None:
                        note(f"{key}: left out, the simulated user found too few mistakes")
                        continue
                    row = {"subject": name, "arm": arm.name, "count": count, "seed": options.seed, **measured}
                    log.add(key, Output(fields=row))
                    found[key] = row
                    write_table(list(found.values()), options.out)
    write_table(list(found.values()), options.out)
    return list(found.values())
