"""The gate: an adapter is served only if it is better at what was corrected and not worse at the rest."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fourfold.assistant.refine.samples import Doubt, Lessons
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.eval.log import AnswerLog, model_fingerprint, write_whole
from fourfold.eval.refinement.slices import (
    OUT_OF_USE,
    Slice,
    ask,
    correction_slice,
    load_engine,
    scores_of,
    sources_here,
    untouched_slices,
)
from fourfold.eval.statistics import Estimate, Paired, clustered_mean, paired
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

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return asdict(self)


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
    doubts: tuple[Doubt, ...]
    report: Path

    def summary(self) -> dict[str, Any]:
        """A plain dict without single questions."""
        return {
            "promotable": self.promotable,
            "reasons": list(self.reasons),
            "target": self.target,
            "slices": [one.to_json() for one in self.slices],
            "doubts": [asdict(doubt) for doubt in self.doubts],
        }


def gate(
    store_directory: str | Path,
    model_directory: str | Path,
    adapter: str | Path,
    *,
    out: str | Path,
    baseline: str | Path | None = None,
    limit: int = 24,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
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
        limit: questions of each untouched kind at most.
        sources: of untouched questions, "photos" and "scenes"; None for those that are on this machine.
        seed: of their draw.
        device: as for `Engine.load`.

    Raises:
        UserError: the adapter has no `training.json`, was trained on another model, or none of its corrections is left.
    """
    from fourfold.assistant.refine.learn import stored_lessons
    from fourfold.assistant.refine.recipe import Refinement

    store, adapter, out = CorrectionStore(store_directory), Path(adapter), Path(out)
    training = _read_training(adapter)
    model = model_fingerprint(Path(model_directory))
    if training["model"] != model:
        raise UserError(f"{adapter} was trained on another model ({training['model']}, this is {model})")
    lessons = stored_lessons(store, Refinement(contrast=False))
    told = training["corrections"]
    learnt, held_out = (
        [lesson for lesson in lessons.corrected if lesson.correction.id in told[side]]
        for side in ("learnt", "held_out")
    )
    corrected = [
        correction_slice(name, side, store.image)
        for name, side in (("corrections seen", learnt), ("corrections held out", held_out))
        if side
    ]
    if not corrected:
        raise UserError(f"none of the corrections that {adapter} learnt is in the store any more; train again")
    untouched = untouched_slices(sources or sources_here(), limit, seed, learnt=learnt)
    slices = [*corrected, *untouched]
    logs = []
    with load_engine(model_directory, device) as engine:
        for name, path in (("before", Path(baseline) if baseline else None), ("after", adapter)):
            configuration = {"suite": "gate", "model": model, "adapter": _digest(path), "decoding": "greedy"}
            log = AnswerLog(out / "answers.jsonl", configuration)
            logs.append(log)
            with log:
                if path is not None:
                    engine.load_adapter(name, path)
                ask(engine, slices, name if path is not None else "", log, name)
    measured = [_compare(part, *logs) for part in slices]
    result = _judge(measured, lessons, out / "gate.html")
    _write(result, slices, logs, training, out)
    return result


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
    difference = one.change.difference
    interval = "" if difference.low is None else f" [{difference.low:+.1f}, {difference.high:+.1f}]"
    return f"{one.before.value:.1f} % before, {one.after.value:.1f} % after, {difference.value:+.1f}{interval}"


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


def _compare(part: Slice, before: AnswerLog, after: AnswerLog) -> SliceResult:
    roles: dict[str, Role] = {"corrections seen": "seen", "corrections held out": "held out"}
    other: Role = "out of use" if part.name.endswith(OUT_OF_USE) else "untouched"
    was, now = (scores_of(part, log.done)[1] for log in (before, after))
    return compare(part.name, roles.get(part.name, other), was, now, part.images)


def _judge(measured: Sequence[SliceResult], lessons: Lessons, report: Path) -> GateResult:
    promotable, target, reasons = judge(measured)
    return GateResult(promotable, tuple(reasons), target, tuple(measured), lessons.doubts, report)


def _read_training(adapter: Path) -> dict[str, Any]:
    try:
        return json.loads((adapter / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{adapter} has no training.json; only what `fourfold refine train` made can be gated"
        ) from None


def _digest(adapter: Path | None) -> str:
    """What an adapter's answers depend on; "" for none."""
    from fourfold.assistant.refine.registry import revision_of

    return "" if adapter is None else revision_of(adapter)


def _write(
    result: GateResult, slices: Sequence[Slice], logs: Sequence[AnswerLog], training: dict[str, Any], out: Path
) -> None:
    from fourfold.eval.refinement.page import gate_page

    items = []
    for part in slices:
        (before, was), (after, now) = (scores_of(part, log.done) for log in logs)
        for row, item in enumerate(part.items):
            items.append(
                {"slice": part.name, "image": item.image.id, "question": item.question, "reference": item.reference,
                 "before": before[row], "after": after[row], "scores": [was[row], now[row]], "id": item.id}
            )  # fmt: skip
    told = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "training": training, **result.summary()}
    write_whole(out / "gate.json", json.dumps({**told, "items": items}, indent=1, ensure_ascii=False) + "\n")
    write_whole(result.report, gate_page(told, items, slices))
