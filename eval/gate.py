"""The gate: an adapter is served only if it is better at what was corrected and not worse at the rest."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.files import write_text
from fourfold.assistant.progress import OnProgress
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.samples import ReviewItem
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Model
from fourfold.eval.report.gate import gate_page
from fourfold.eval.report.render import signed
from fourfold.eval.run import run
from fourfold.eval.statistics import Estimate, Paired, clustered_mean, paired
from fourfold.eval.task import Task
from fourfold.eval.tasks.corrections import (
    OUT_OF_USE,
    answers_of,
    correction_task,
    scores_of,
    sources_here,
    together,
    untouched_tasks,
)
from fourfold.prompts.errors import UserError

Role = Literal["seen", "held out", "untouched", "out of use"]
Change = Literal["better", "worse", "no difference shown"]
LEAST_HELD_OUT = 5
"""Images; with fewer, corrections that were learnt from have to do as the target as well."""


@dataclass(frozen=True)
class SliceResult:
    """One slice before and after, in percent.

    Attributes:
        name: of the slice.
        role: corrections that were learnt ("seen") or kept back ("held out"), questions whose right answer the
            corrections replaced ("out of use"), or anything else.
        before, after: mean scores.
        change: their difference, question by question.
        verdict: "better" or "worse" where the whole 95 % interval of the difference lies on that side of 0.
    """

    name: str
    role: Role
    before: Estimate
    after: Estimate
    change: Paired
    verdict: Change


@dataclass(frozen=True)
class GateResult:
    """What the gate says.

    Attributes:
        promotable: whether the target improves and nothing falls.
        reasons: why, a sentence each; what fell, and by how much.
        target: name of the slice that had to improve.
        slices: all that was measured.
        doubts: corrections that a person should look at.
        report: the HTML page; `gate.json` lies beside it.
    """

    promotable: bool
    reasons: tuple[str, ...]
    target: str
    slices: tuple[SliceResult, ...]
    doubts: tuple[ReviewItem, ...]
    report: Path

    def summary(self) -> dict[str, Any]:
        """A plain dict without single questions."""
        return {name: value for name, value in asdict(self).items() if name != "report"}


def gate(
    store_directory: str | Path,
    model_directory: str | Path,
    adapter: str | Path,
    *,
    out: str | Path,
    baseline: str | Path | None = None,
    served: tuple[Model, Model] | None = None,
    limit: int = 24,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    on_progress: OnProgress | None = None,
) -> GateResult:
    """Ask the model with and without the adapter, compare, and write `gate.html` and `gate.json`.

    Answers are kept in `out` as they come, so a gate that was stopped goes on. An adapter, model or baseline that
    changed is asked anew.

    Args:
        store_directory: of the `CorrectionStore`.
        model_directory: the checkpoint.
        adapter: directory of an adapter with its `training.json`.
        out: where to write.
        baseline: the adapter that is served now, to compare with; None for the model alone.
        served: who answers in place of an engine in this process: `EndpointModel`s whose served names are the
            baseline's (or the model's) and the adapter's. What these names stand for is the caller's word.
        limit: questions of each untouched kind at most.
        sources: of untouched questions, "photos" and "scenes"; None for those that are on this machine.
        seed: of their draw.
        device: as for `Engine.load`.
        on_progress: told how far it is; None for a progress bar on stderr.

    Raises:
        UserError: the adapter has no `training.json`, was trained on another model, or none of its corrections is left;
            or somebody does not answer.
    """
    from fourfold.assistant.refine.adapter import revision_of
    from fourfold.assistant.refine.training.learn import stored_training_set
    from fourfold.assistant.refine.training.recipe import Refinement

    store, adapter, out = CorrectionStore(store_directory), Path(adapter), Path(out)
    training = _read_training(adapter)
    fingerprint = model_fingerprint(Path(model_directory))
    if training["model"] != fingerprint:
        raise UserError(f"{adapter} was trained on another model ({training['model']}, this is {fingerprint})")
    taught = stored_training_set(store, Refinement(contrast=False))
    told = training["corrections"]
    learnt, held_out = (
        [target for target in taught.corrected if target.correction.id in told[side]] for side in ("learnt", "held_out")
    )
    corrected = [
        correction_task(name, side, store.image)
        for name, side in (("corrections seen", learnt), ("corrections held out", held_out))
        if side
    ]
    if not corrected:
        raise UserError(f"none of the corrections that {adapter} learnt is in the store any more; train again")
    tasks = [*corrected, *untouched_tasks(sources or sources_here(), limit, seed, learnt=learnt)]
    adapters = (Path(baseline) if baseline else None, adapter)
    outputs = []
    with EngineModel(Path(model_directory), device=device, dtype=exact_dtype(device)) as engine:
        for name, path, server in zip(
            ("asking as it answers now", "asking with the new adapter"), adapters, served or (None, None), strict=True
        ):
            configuration = {
                "suite": "gate", "model": fingerprint, "adapter": path and revision_of(path),
                "served": server and server.identity,
            }  # fmt: skip
            with (
                EvalLog(out / "answers.jsonl", configuration) as log,
                server or engine.with_adapter(path) as model,
            ):
                outputs.append(run(together(name, tasks), model, log, progress=on_progress))
    measured, items = [], []
    for task in tasks:
        said = [answers_of(task, side) for side in outputs]
        was, now = (scores_of(task, answers) for answers in said)
        measured.append(compare(task.name, _role(task), was, now, task.clusters))
        for row, sample in enumerate(task.samples):
            items.append(
                {"slice": task.name, "image": sample.cluster, "question": sample.prompt,
                 "reference": sample.reference.answer, "before": said[0][row], "after": said[1][row],
                 "scores": [was[row], now[row]], "id": sample.groups.get("correction", "")}
            )  # fmt: skip
    promotable, target, reasons = judge(measured)
    result = GateResult(promotable, tuple(reasons), target, tuple(measured), taught.to_review, out / "gate.html")
    told = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "training": training, **result.summary()}
    write_text(out / "gate.json", json.dumps({**told, "items": items}, indent=1, ensure_ascii=False) + "\n")
    write_text(result.report, gate_page(told, items, [sample for task in tasks for sample in task.samples]))
    return result


def exact_dtype(device: str) -> str:
    """The format in which answers with and without an adapter differ by the adapter alone.

    On a CPU the model alone may be computed in int8, but never with an adapter; in float32 both are.
    """
    import torch

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return "auto" if on_gpu else "float32"


def judge(measured: Sequence[SliceResult]) -> tuple[bool, str, list[str]]:
    """Whether an adapter may be served, the name of its target, and why (a sentence each).

    The target are the corrections that were kept back, or, where these are fewer than `LEAST_HELD_OUT`, those that were
    learnt. It has to be better; nothing may be worse, but for questions whose right answer is out of use: of these
    a person must say whether that is what was wanted.
    """
    by_role = {one.role: one for one in measured}
    held_out = by_role.get("held out")
    enough = held_out is not None and held_out.after.clusters >= LEAST_HELD_OUT
    target = held_out if held_out is not None and (enough or "seen" not in by_role) else by_role["seen"]
    reasons = []
    if not enough:
        reasons.append(
            f"Fewer than {LEAST_HELD_OUT} corrected images were kept back, so nothing is known about images like those "
            "that were corrected."
        )
    if target.verdict == "better":
        reasons.append(f"{target.name}: {_change(target)}.")
    else:
        reasons.append(f"{target.name} did not get better: {_change(target)}.")
    fell = [one for one in measured if one.verdict == "worse" and one.role != "out of use"]
    reasons += [f"{one.name} got worse: {_change(one)}." for one in fell]
    reasons += [f"Not judged: {one.name}: {_change(one)}." for one in measured if one.role == "out of use"]
    return target.verdict == "better" and not fell, target.name, reasons


def _change(one: SliceResult) -> str:
    return f"{one.before.value:.1f} % before, {one.after.value:.1f} % after, {signed(one.change.difference)}"


def compare(
    name: str, role: Role, before: Sequence[float], after: Sequence[float], images: Sequence[str]
) -> SliceResult:
    """Scores (0..1) of the same questions before and after. One image alone cannot show a difference but by falling."""
    change = paired(before, after, images)
    low, high, value = change.difference.low, change.difference.high, change.difference.value
    verdict: Change = "no difference shown"
    if (high if high is not None else value) < 0:
        verdict = "worse"
    elif low is not None and low > 0:
        verdict = "better"
    return SliceResult(name, role, clustered_mean(before, images), clustered_mean(after, images), change, verdict)


def _role(task: Task) -> Role:
    roles: dict[str, Role] = {"corrections seen": "seen", "corrections held out": "held out"}
    return roles.get(task.name, "out of use" if task.name.endswith(OUT_OF_USE) else "untouched")


def _read_training(adapter: Path) -> dict[str, Any]:
    try:
        return json.loads((adapter / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{adapter} has no training.json; only what `fourfold refine train` made can be gated"
        ) from None
