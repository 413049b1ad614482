"""Asking a model everything on the card, in process, and scoring it."""

import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.training.data import ImageRef
from fourfold.eval.held_out.items import CONTROLS, SOURCES, Group, card_groups
from fourfold.eval.held_out.scores import SCORES
from fourfold.eval.log import AnswerLog, model_fingerprint
from fourfold.eval.progress import progress_bar
from fourfold.eval.statistics import clustered_mean
from fourfold.serving.engine.requests import Request, Sampling

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

_BATCH = 64


@dataclass(frozen=True)
class _Job:
    """One thing to ask: an answer, or (with `reference`) how likely that answer is.

    Greedy answers depend on question, image and length alone, so items that share these share a job; that is most of
    what is asked without an image.
    """

    question: str
    image: ImageRef | None
    max_tokens: int
    reference: str | None = None

    @property
    def key(self) -> str:
        """The sample's name in the log."""
        parts = (self.question, self.image.key if self.image else "", str(self.max_tokens), self.reference or "")
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
        return f"{'answer' if self.reference is None else 'loss'}/{digest}"


def run_card(
    directory: Path,
    *,
    limit: int | None,
    out: Path,
    sources: Sequence[str] = SOURCES,
    controls: Sequence[str] = CONTROLS,
    seed: int = 0,
    device: str = "auto",
    name: str | None = None,
) -> dict[str, Any]:
    """Ask the model in `directory` and return the card as one JSON-ready object.

    Answers go to `out/answers.jsonl` as they come; a run that was stopped goes on where it was.

    Args:
        directory: the checkpoint.
        limit: items a kind and source at most; None for all there are.
        out: folder of the answers.
        sources: of "photos" and "scenes".
        controls: of "image", "wrong-image" and "blind".
        seed: of the held-out draw.
        device: as for `Engine.load`.
        name: what the card calls the model.
    """
    from fourfold.serving.engine.engine import Engine

    begun = time.monotonic()
    model = model_fingerprint(directory)
    configuration = {"suite": "card", "model": model, "decoding": "greedy", "seed": seed}
    groups = [group for source in sources for group in card_groups(source, limit, seed)]
    jobs = [job for group in groups for control in controls for pair in _jobs(group, control) for job in pair if job]
    with AnswerLog(out / "answers.jsonl", configuration) as log:
        waiting = {job.key: job for job in jobs if job.key not in log.done}
        if waiting:
            with Engine.load(directory, device=device, name=name) as engine:
                _ask(engine, list(waiting.values()), log)
                where = str(engine.device)
        else:
            where = "answered before"
        card = {
            source: {
                group.kind: {control: _score(group, control, log) for control in controls}
                for group in groups
                if group.source == source
            }
            for source in sources
        }
    return {
        "suite": "card",
        "model": name or directory.name,
        "fingerprint": model,
        "limit": limit,
        "seed": seed,
        "confidence": 0.95,
        "device": where,
        "machine": platform.machine(),
        "versions": {package: version(package) for package in ("torch", "transformers")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 1),
        "sources": card,
    }


def _jobs(group: Group, control: str) -> list[tuple[_Job, _Job | None]]:
    """For each sample the job of its answer and, for captions, that of the reference's likelihood."""
    pairs: list[tuple[_Job, _Job | None]] = []
    for index, sample in enumerate(group.samples):
        turn = sample.turns[0]
        answer = _Job(turn.question, group.image(index, control), group.max_tokens)
        pairs.append((answer, replace(answer, reference=turn.answer) if group.kind == "caption" else None))
    return pairs


def _ask(engine: "Engine", jobs: list[_Job], log: AnswerLog) -> None:
    # All questions about an image stand together, so that it is encoded and read once.
    jobs = sorted(jobs, key=lambda job: (job.image.key if job.image else "", job.key))
    with progress_bar() as progress:
        task = progress.add_task("card", total=len(jobs))
        for start in range(0, len(jobs), _BATCH):
            batch = jobs[start : start + _BATCH]
            pictures = {job.image.key: job.image.open() for job in batch if job.image}
            answers = [(job, _request(job, pictures)) for job in batch if job.reference is None]
            for (job, _), completion in zip(answers, engine.generate([r for _, r in answers]), strict=True):
                log.add(job.key, **_shown(job), answer=completion.text, finish_reason=completion.finish_reason)
                progress.advance(task)
            for job in batch:
                if job.reference is not None:
                    (likelihood,) = engine.score(_request(job, pictures), [job.reference])
                    log.add(job.key, **_shown(job), reference=job.reference, loss=-likelihood)
                    progress.advance(task)


def _shown(job: _Job) -> dict[str, Any]:
    return {"question": job.question, "image": job.image.id if job.image else None}


def _request(job: _Job, pictures: Mapping[str, Any]) -> Request:
    content: list[dict[str, Any]] = [{"type": "text", "text": job.question}]
    if job.image is not None:
        content.insert(0, {"type": "image", "image": pictures[job.image.key]})
    return Request([{"role": "user", "content": content}], Sampling(max_tokens=job.max_tokens))


def _score(group: Group, control: str, log: AnswerLog) -> dict[str, Any]:
    pairs = _jobs(group, control)
    figures = SCORES[group.kind](group.samples, [log.done[answer.key]["answer"] for answer, _ in pairs])
    losses = [log.done[loss.key]["loss"] for _, loss in pairs if loss is not None]
    if losses:
        images = [sample.image.id for sample in group.samples]
        figures["loss (nats a token)"] = clustered_mean(losses, images, scale=1.0, ceiling=None)
    return {figure: estimate.to_json() for figure, estimate in figures.items()}
