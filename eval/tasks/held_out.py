"""The card: what a model can do on held-out photos and scenes, beside what it does without seeing them."""

import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.training import data
from fourfold.assistant.training.data import ImageRef, Turn
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Model
from fourfold.eval.run import run
from fourfold.eval.scorers import answers as rules
from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.boxes import match_boxes
from fourfold.eval.scorers.phrases import grounded_phrases
from fourfold.eval.scorers.precision_recall import precision_recall
from fourfold.eval.scorers.yes_no import first_verdict, yes_no_figures
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.eval.task import ImageSource, Sample, Task
from fourfold.eval.tasks.decisions import measure_decisions
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task as Tag

SOURCES = ("photos", "scenes")
CONTROLS = ("image", "wrong-image", "blind")
"""The sample's own image, another sample's image, no image; the question is the same."""
NO_LOSS = (
    "The loss of reference captions is left out: a chat endpoint does not tell how likely a given answer is. "
    "Measure it in process (--model DIR)."
)
NO_DECISIONS = (
    "How good the probabilities of decisions are is left out: their likelihoods are asked for in process (--model DIR)."
)

# What one answer may take: boxes cost about 20 tokens each where digits are tokens of their own.
_TOKENS = {Tag.VQA: 8, Tag.CAPTION: 40, Tag.REFER: 32, Tag.IDENTIFY: 16, Tag.DETECTION: 160, Tag.GROUNDING: 220}
# "annotated" are DAQUAR's questions by people about indoor photos; they are reported apart from the derived ones.
_VQA_KINDS = ("existence", "colour", "count", "relation", "what", "text", "annotated")


@dataclass(frozen=True)
class Group:
    """Held-out questions of one kind from one source, scored together."""

    source: str
    kind: str
    held_out: tuple[data.Sample, ...]

    @property
    def max_tokens(self) -> int:
        return _TOKENS[self.held_out[0].turns[0].task]

    def samples(self, control: str = "image") -> list[Sample]:
        """What is asked under a control."""
        return [
            sample_of(held_out, self.max_tokens, self._image(row, control))
            for row, held_out in enumerate(self.held_out)
        ]

    def _image(self, row: int, control: str) -> ImageRef | None:
        """The wrong image is that of the sample half the group away, or of the next one that shows another photo."""
        if control == "blind":
            return None
        own, count = self.held_out[row].image, len(self.held_out)
        if control == "image":
            return own
        for step in range(count):
            other = self.held_out[(row + count // 2 + step) % count].image
            if other.id != own.id:
                return other
        raise UserError(f"all {count} {self.kind} items of {self.source} show the same image; ask for more by --limit")


def sample_of(held_out: data.Sample, max_tokens: int, image: ImageRef | None) -> Sample:
    """A held-out question about an image; its turn is the reference, and its own image the cluster."""
    (turn,) = held_out.turns
    id = content_id(turn.question, image, max_tokens)
    return Sample(id, turn.question, image, turn, cluster=held_out.image.id, max_tokens=max_tokens)


def content_id(
    question: str, image: ImageSource | None, max_tokens: int, history: Sequence[tuple[str, str]] = ()
) -> str:
    """A sample's id by what its greedy answer depends on: who gets the same answer is asked once."""
    said = (text for pair in history for text in pair)
    parts = (image.key if image else "", *said, question, str(max_tokens))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def held_out_groups(source: str, limit: int | None, seed: int = 0) -> list[Group]:
    """The held-out groups of a source, at most `limit` questions each, in a fixed order."""
    groups: dict[str, list[data.Sample]] = {kind: [] for kind in _VQA_KINDS}
    # The scenes are endless and vqa questions are shared among five kinds; all photos are read, and cut below.
    wanted = None if source == "photos" else 5 * (limit or 400)
    for sample in data.held_out(Tag.VQA, source, seed, wanted):
        kind = str(sample.turns[0].facts["kind"])
        groups["annotated" if sample.image.id.startswith("daquar/") else kind].append(sample)
    for tag in (Tag.CAPTION, Tag.REFER, Tag.IDENTIFY, Tag.DETECTION, Tag.GROUNDING):
        groups[tag.value] = data.held_out(tag, source, seed, limit)
    most = None if limit is None else max(limit, 2)
    return [Group(source, kind, tuple(samples[:most])) for kind, samples in groups.items() if len(samples) > 1]


def run_card(
    model: Model,
    *,
    limit: int | None,
    out: Path,
    sources: Sequence[str] = SOURCES,
    controls: Sequence[str] = CONTROLS,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask a model everything on the card and return it as one JSON-ready object.

    Answers go to `out/answers.jsonl` as they come; a run that was stopped goes on where it was.

    Args:
        model: who is asked.
        limit: questions a kind and source at most; None for all there are.
        out: folder of the answers.
        sources: of "photos" and "scenes".
        controls: of "image", "wrong-image" and "blind".
        seed: of the held-out draw.

    Raises:
        UserError: nobody answers (any more), or the photos are not here.
    """
    begun = time.monotonic()
    configuration = {"suite": "card", "model": model.identity, "decoding": "greedy", "seed": seed}
    groups = [group for source in sources for group in held_out_groups(source, limit, seed)]
    if bare := set(sources) - {group.source for group in groups}:
        raise UserError(f"too few items of {min(bare)}: a wrong image needs another item; ask for more by --limit")
    asked = [(group, control, group.samples(control)) for group in groups for control in controls]
    samples = [sample for _, _, part in asked for sample in part]
    if model.ranks_whole_candidates:
        samples += [_loss_of(sample) for group, _, part in asked if group.kind == "caption" for sample in part]
    with EvalLog(out / "answers.jsonl", configuration) as log:
        known = all(sample.id in log.done for sample in samples)
        outputs = run(Task("card", samples), model, log)
    figures: dict[str, Any] = {source: {} for source in sources}
    for group, control, part in asked:
        answers = [outputs.get(sample.id) for sample in part]
        said = [answer.text or "" if answer else "" for answer in answers]
        found = held_out_figures(group.kind, [sample.reference for sample in part], said, [s.cluster for s in part])
        losses = [(output.scores[0], sample.cluster) for sample in part
                  if (output := outputs.get(_loss_of(sample).id)) and output.scores]  # fmt: skip
        if losses:
            nats, images = [-score for score, _ in losses], [image for _, image in losses]
            found["loss (nats a token)"] = clustered_mean(nats, images, scale=1.0, ceiling=None)
        told = {name: estimate.to_json() for name, estimate in found.items()}
        figures[group.source].setdefault(group.kind, {})[control] = told
    notes, decided = [] if model.ranks_whole_candidates else [NO_LOSS], None
    if isinstance(model, EngineModel):
        with EvalLog(out / "decisions.jsonl", configuration) as log:
            decided = measure_decisions(model, log, limit=limit, sources=sources, controls=controls, seed=seed)
    else:
        notes.append(NO_DECISIONS)
    where = "answered before" if known else str(model.engine.device) if isinstance(model, EngineModel) else "endpoint"
    return {
        "suite": "card",
        "model": model.name if isinstance(model, EngineModel) else model.identity,
        "fingerprint": model.fingerprint if isinstance(model, EngineModel) else None,
        "limit": limit,
        "seed": seed,
        "confidence": 0.95,
        "device": where,
        "machine": platform.machine(),
        "versions": {package: version(package) for package in ("torch", "transformers")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 1),
        "failed": sum(output.error is not None for output in outputs.values()),
        "notes": notes,
        "sources": figures,
        "decisions": decided,
    }


def _loss_of(sample: Sample) -> Sample:
    """The question how likely its reference is; one token is written for it in vain."""
    reference = sample.reference.answer
    id = hashlib.sha256(f"{sample.id}\n{reference}".encode()).hexdigest()[:24]
    return replace(sample, id=f"loss/{id}", candidates=(reference,), max_tokens=1)


# Figures of a kind of question in percent, from turns, answers and images; the first is the kind's headline.
Figures = dict[str, Estimate]


def held_out_figures(kind: str, turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    """All figures of a kind of question.

    Args:
        kind: of a group.
        turns: with the right answers.
        answers: as many, "" where there is none.
        images: of each question, by which intervals are clustered.
    """
    return _FIGURES[kind](turns, answers, images)


def _accuracy(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    return {"accuracy": clustered_mean(list(map(rules.exact_name, turns, answers)), images)}


def _existence(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    """POPE's figures over all pairs, and by the kind of negative, each with the yeses that it was paired with."""
    figures = _yes_no(turns, answers, images)
    kinds = [turn.facts["negative"] for turn in turns]
    for row in range(len(turns) - 1):  # a yes belongs to the negative about the same image that follows it
        if kinds[row] is None and images[row] == images[row + 1]:
            kinds[row] = kinds[row + 1]
    for kind in ("random", "popular", "adversarial"):
        rows = [row for row, found in enumerate(kinds) if found == kind]
        if rows and len(set(kinds) - {None}) > 1:
            part = _yes_no([turns[row] for row in rows], [answers[row] for row in rows], [images[row] for row in rows])
            figures[f"accuracy/{kind}"], figures[f"f1/{kind}"] = part["accuracy"], part["f1"]
    return figures


def _yes_no(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    return yes_no_figures([turn.answer == "yes" for turn in turns], list(map(first_verdict, answers)), images)


def _relation(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    figures = _yes_no(turns, answers, images)
    return {name: figures[name] for name in ("accuracy", "yes_ratio")}


def _count(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    near = []
    for turn, answer in zip(turns, answers, strict=True):
        said, true = normalise.vqa(answer), normalise.vqa(turn.answer)
        near.append(float(said.isdecimal() and true.isdecimal() and abs(int(said) - int(true)) <= 1))
    right = list(map(rules.number, turns, answers))
    return {"accuracy": clustered_mean(right, images), "off by one at most": clustered_mean(near, images)}


def _caption(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    """CIDEr-D times 100; document frequencies are those of these questions' references."""
    scores = rules.score_answers("caption", turns, answers)
    return {"cider": clustered_mean(scores, images, scale=1000.0, ceiling=None)}


def _refer(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    """How often no box could be read is told, too; that counts as wrong."""
    ious = list(map(rules.first_box_iou, turns, answers))
    return {
        "acc@0.5": clustered_mean([float(iou >= 0.5) for iou in ious], images),
        "mean_iou (0..1)": clustered_mean(ious, images, scale=1.0),
        "no box": clustered_mean([float(not parse(answer).boxes) for answer in answers], images),
    }


def _identify(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    noun = clustered_mean(list(map(rules.head_noun, turns, answers)), images)
    return {**_accuracy(turns, answers, images), "head noun": noun}


def _detection(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    """Of boxes at IoU 0.5 over all questions, and how often the absent was left unboxed."""
    written = [parse(answer).boxes for answer in answers]
    found = [float(match_boxes(said, t.boxes, overlap=Box.iou)) for t, said in zip(turns, written, strict=True)]
    columns = [found, [float(len(said)) for said in written], found, [float(len(turn.boxes)) for turn in turns]]
    figures = precision_recall(columns, images)
    absent = [row for row, turn in enumerate(turns) if turn.facts["absent"]]
    if absent:
        denied = [float(not written[row]) for row in absent]
        figures["absent left unboxed"] = clustered_mean(denied, [images[row] for row in absent])
    return figures


def _grounding(turns: Sequence[Turn], answers: Sequence[str], images: Sequence[str]) -> Figures:
    """Phrase accuracy of grounded captions, and CIDEr-D of their words.

    Precision: of the phrases written with a box, how many have the head noun and the place (IoU >= 0.5) of a phrase of
    the reference caption. Recall: of that caption's phrases, how many such a phrase was written for. One caption of
    five is the reference, so a true phrase about something it leaves out counts as wrong.
    """
    read = [parse(answer) for answer in answers]
    counts = [
        grounded_phrases(one.phrases, list(turn.facts["grounded"])) for turn, one in zip(turns, read, strict=True)
    ]
    figures = precision_recall([[float(row[k]) for row in counts] for k in range(4)], images)
    figures["no phrase"] = clustered_mean([float(row[1] == 0) for row in counts], images)
    return {**figures, **_caption(turns, [one.plain for one in read], images)}


_FIGURES: dict[str, Callable[[Sequence[Turn], Sequence[str], Sequence[str]], Figures]] = {
    "existence": _existence,
    "colour": _accuracy,
    "count": _count,
    "relation": _relation,
    "what": _accuracy,
    "text": _accuracy,
    "annotated": _accuracy,
    "caption": _caption,
    "refer": _refer,
    "identify": _identify,
    "detection": _detection,
    "grounding": _grounding,
}
