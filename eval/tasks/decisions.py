"""Closed questions with known answers: how good a model's probabilities are, and temperatures that make them better."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fourfold.assistant.checkpoints.calibration import DECISION_KINDS, Calibration, DecisionKind, read_calibration
from fourfold.assistant.english import COLOURS
from fourfold.assistant.progress import Progress, progress_bar
from fourfold.assistant.training import data
from fourfold.assistant.training.data import ImageRef, Turn
from fourfold.assistant.training.data.calibration import SHARES
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Output
from fourfold.eval.scorers.probabilities import brier, expected_calibration_error, fit_temperature, reliability
from fourfold.eval.statistics import Estimate, clustered_mean
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.decisions.decide import Decider, probabilities
from fourfold.serving.decisions.questions import DecisionQuestion, choice, predicate, score
from fourfold.serving.engine.requests import Request

NUMBERS = ("1", "2", "3", "4", "5", "6")
_OPTIONS = 4  # of a choice among things
_LEAST = 40  # questions that a temperature is fitted on


@dataclass(frozen=True)
class Item:
    """A question about an image, and the number of the right option."""

    question: DecisionQuestion
    image: ImageRef
    right: int

    @property
    def kind(self) -> DecisionKind:
        return self.question.kind


def items_of(samples: Sequence[data.Sample], seed: int = 0) -> list[Item]:
    """The closed questions among held-out or training items; the others are left out.

    Existence and relations are predicates; a colour is chosen among all, a thing among four; a number is a score.
    """
    names = sorted({sample.turns[0].answer for sample in samples if sample.turns[0].facts["kind"] == "what"})
    items = []
    for sample in samples:
        (turn,) = sample.turns
        if found := _question(turn, names, random.Random(f"options {seed} {sample.image.id} {turn.question}")):
            items.append(Item(found[0], sample.image, found[1]))
    return items


def _question(turn: Turn, names: Sequence[str], rng: random.Random) -> tuple[DecisionQuestion, int] | None:
    words, answer = turn.question, turn.answer
    match turn.facts["kind"]:
        case "existence" | "relation" if answer in ("yes", "no"):
            return predicate(words), int(answer == "no")
        case "colour" if answer in COLOURS:
            return choice(words, COLOURS), COLOURS.index(answer)
        case "what" if len(names) >= _OPTIONS:
            also_right = turn.facts.get("names", ())
            others = [name for name in names if name != answer and name not in also_right]
            options = [*rng.sample(others, min(_OPTIONS - 1, len(others))), answer]
            rng.shuffle(options)
            return choice(words, options), options.index(answer)
        case "count" if answer in NUMBERS:
            return score(words, NUMBERS), NUMBERS.index(answer)
    return None


def rank_items(
    model: EngineModel, items: Sequence[Item], images: Sequence[ImageRef | None], log: EvalLog, name: str
) -> list[tuple[float, ...]]:
    """Log-likelihoods of each item's options, up to a constant of the item; what the log has is not asked again.

    Args:
        model: is asked.
        items: the questions.
        images: what is shown with each; None for nothing.
        log: of this model.
        name: what the progress bar says.

    Raises:
        UserError: the model refuses a question.
    """
    ids = [_id(item, image) for item, image in zip(items, images, strict=True)]
    waiting: dict[str, tuple[Item, ImageRef | None]] = {}
    for id, item, image in zip(ids, items, images, strict=True):
        if id not in log.done:
            waiting[id] = (item, image)
    together: dict[str, list[str]] = {}
    for id, (_, image) in waiting.items():
        together.setdefault(image.key if image else "", []).append(id)
    done = len(set(ids)) - len(waiting)
    with progress_bar(None) as tell:
        for group in together.values():
            tell(Progress(name, done, len(set(ids))))
            image = waiting[group[0]][1]
            parts = [] if image is None else [{"type": "image", "image": image.open()}]
            context = [{"role": "user", "content": parts}] if parts else []
            decider = Decider(model.engine, Request(context, adapter=""), None)
            answers = decider.decide([waiting[id][0].question for id in group])
            for id, answer in zip(group, answers, strict=True):
                if answer.refusal is not None:
                    raise UserError(f"{waiting[id][0].question.words!r} cannot be asked: {answer.refusal}")
                log.add(id, Output(scores=answer.log_likelihoods))
            done += len(group)
        tell(Progress(name, done, len(set(ids))))
    return [log.done[id].scores or () for id in ids]


def _id(item: Item, image: ImageRef | None) -> str:
    parts = (image.key if image else "", item.question.words, *(option.text for option in item.question.options))
    return f"decision/{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:24]}"


def decision_figures(
    items: Sequence[Item], rows: Sequence[Sequence[float]], temperature: float | None
) -> dict[str, Any]:
    """Accuracy, Brier score, calibration error and the bins of a kind of question; JSON-ready.

    A predicate's event is that the answer is yes, that of the others that the likeliest option is right.

    Args:
        items: of one kind.
        rows: log-likelihoods of their options.
        temperature: of the checkpoint; None for raw probabilities.
    """
    images = [item.image.id for item in items]
    right = [item.right for item in items]
    told = [probabilities(row, temperature or 1.0) for row in rows]
    likeliest = [max(range(len(row)), key=row.__getitem__) for row in told]
    hits = [guess == answer for guess, answer in zip(likeliest, right, strict=True)]
    if items[0].kind == "predicate":
        predicted, happened = [row[0] for row in told], [answer == 0 for answer in right]
    else:
        predicted, happened = [max(row) for row in told], hits
    figures: dict[str, Estimate] = {
        "accuracy": clustered_mean([float(hit) for hit in hits], images),
        "Brier (0..2)": brier(told, right, images),
        "ECE (0..1)": expected_calibration_error(predicted, happened, images),
    }
    return {
        "figures": {name: estimate.to_json() for name, estimate in figures.items()},
        "reliability": [asdict(found) for found in reliability(predicted, happened)],
    }


def measure_decisions(
    model: EngineModel,
    log: EvalLog,
    *,
    limit: int | None,
    sources: Sequence[str],
    controls: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Held-out closed questions under each control, by source, kind and control, raw, and calibrated
    where the checkpoint has temperatures.

    Args:
        model: is asked.
        log: of this model.
        limit: questions of a sort (existence, colour, ...) and source at most; None for all there are.
        sources: of "photos" and "scenes".
        controls: of "image", "wrong-image" and "blind".
        seed: of the held-out draw.
    """
    calibration = read_calibration(model.checkpoint)
    measured: dict[str, Any] = {}
    for source in sources:
        by_sort: dict[str, list[data.Sample]] = {}
        for sample in data.held_out(Task.VQA, source, seed, None if source == "photos" else 5 * (limit or 400)):
            if not sample.image.id.startswith("daquar/"):  # what people wrote about rooms has no closed answers
                by_sort.setdefault(str(sample.turns[0].facts["kind"]), []).append(sample)
        kept = {sort: None if limit is None else max(round(limit * SHARES.get(sort, 1)), 2) for sort in by_sort}
        items = items_of([sample for sort, found in by_sort.items() for sample in found[: kept[sort]]], seed)
        by_kind = {kind: [item for item in items if item.kind == kind] for kind in DECISION_KINDS}
        measured[source] = {}
        for kind, asked in by_kind.items():
            if len(asked) < 2:
                continue
            temperature = calibration.temperatures.get(kind) if calibration else None
            for control in controls:
                shown = [_shown(asked, row, control) for row in range(len(asked))]
                rows = rank_items(model, asked, shown, log, f"{kind}s, {source}, {control}")
                told = {"raw": decision_figures(asked, rows, None)}
                if temperature is not None:
                    told["calibrated"] = decision_figures(asked, rows, temperature)
                measured[source].setdefault(kind, {})[control] = told
    temperatures = dict(calibration.temperatures) if calibration else None
    return {"temperatures": temperatures, "sources": measured}


def _shown(items: Sequence[Item], row: int, control: str) -> ImageRef | None:
    """The wrong image is that of the item half the list away, or of the next one that shows another."""
    own, count = items[row].image, len(items)
    if control == "blind":
        return None
    if control == "image":
        return own
    others = (items[(row + count // 2 + step) % count].image for step in range(count))
    if (other := next((image for image in others if image.id != own.id), None)) is None:
        raise UserError("all questions are about the same image; ask for more by --limit")
    return other


def fit_calibration(
    model: EngineModel, samples: Mapping[str, Sequence[data.Sample]], log: EvalLog, told: Mapping[str, Any]
) -> Calibration:
    """Temperatures for each kind of question that there are enough of.

    Args:
        model: is asked.
        samples: never held-out ones, by their sort.
        log: of this model.
        told: about the samples, for the file.

    Raises:
        UserError: there are too few questions of every kind.
    """
    items = items_of([sample for sort in samples.values() for sample in sort])
    temperatures: dict[DecisionKind, float] = {}
    fitted: dict[str, Any] = dict(told)
    for kind in DECISION_KINDS:
        asked = [item for item in items if item.kind == kind]
        if len(asked) < _LEAST:
            continue
        rows = rank_items(model, asked, [item.image for item in asked], log, f"calibration, {kind}s")
        right = [item.right for item in asked]
        temperatures[kind] = round(fit_temperature(rows, right), 4)
        fitted[kind] = {"questions": len(asked), "images": len({item.image.id for item in asked})}
        for name, temperature in (("raw", None), ("calibrated", temperatures[kind])):
            figures = decision_figures(asked, rows, temperature)["figures"]
            kept = [metric for metric in figures if metric != "accuracy"]
            fitted[kind] |= {f"{metric}, {name}": round(figures[metric]["value"], 4) for metric in kept}
    if not temperatures:
        raise UserError(f"a temperature takes {_LEAST} questions of a kind; ask for more by --limit")
    return Calibration(model.fingerprint, temperatures, fitted)
