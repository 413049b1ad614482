"""Does looking again help? Every loop of `assistant.chat.look_again`, before and after, on held-out photos and scenes.

Each row of the table compares a model's first answers with those after one loop, on the same questions: how many are
right, how many wrong answers it mended and how many right ones it broke, what it cost in questions and seconds, and a
sign-flip test over whole images. The loops' rules were fixed before anything was measured here.
"""

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fourfold.assistant.chat.look_again import (
    Ask,
    Budget,
    ask_with,
    claims_of,
    look_again,
    number_in,
    with_images,
    yes_or_no,
)
from fourfold.assistant.english import related, singular, words_of
from fourfold.assistant.training import data
from fourfold.assistant.training.data import Turn
from fourfold.eval.endpoint import EndpointModel, addresses
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel, Model, OnOutput, Output
from fourfold.eval.report.render import markdown_table, signed
from fourfold.eval.run import run
from fourfold.eval.scorers.answers import first_box
from fourfold.eval.statistics import clustered_mean, paired
from fourfold.eval.task import Sample, Task
from fourfold.eval.tasks.held_out import SOURCES
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task as Tag

_MAX_TOKENS = 96


@dataclass(frozen=True)
class Loop:
    """One loop on one sort of question.

    Attributes:
        name: as the table calls it.
        tag, source, kind: which held-out questions; `kind` None for all with the tag.
        score: (turn, answer) -> 0..1.
        options: of `look_again`.
    """

    name: str
    tag: Tag
    source: str
    kind: str | None
    score: Callable[[Turn, str], float]
    options: Mapping[str, Any] = field(default_factory=dict)

    def task(self, limit: int, seed: int) -> Task:
        """At most `limit` held-out questions, the same for the same seed."""
        shares = {"existence": 2, "count": 10, "text": 40}  # vqa's limit is shared among its kinds
        wanted = limit * shares.get(self.kind or "", 1)
        if self.source == "scenes" and self.kind is not None:
            wanted = max(wanted, 800)  # written words are rare, and scenes cost nothing until they are rendered
        held_out = data.held_out(self.tag, self.source, seed, wanted)
        turns = [(one.image, one.turns[0]) for one in held_out if self.kind in (None, one.turns[0].facts["kind"])]
        samples = [
            Sample(f"{self.name}/{image.id}/{turn.question}", turn.question, image, turn, cluster=image.id)
            for image, turn in turns[:limit]
        ]
        return Task(self.name, samples, _MAX_TOKENS)


def _exists(turn: Turn, answer: str) -> float:
    """Right yes or no at the beginning; anything else is wrong."""
    return float(yes_or_no(answer) == (turn.answer == "yes"))


def _count_right(turn: Turn, answer: str) -> float:
    return float(number_in(answer) == int(turn.answer))


def _text_right(turn: Turn, answer: str) -> float:
    """The written word, in upper or lower case, is in the answer."""
    return float(turn.answer.lower() in re.findall(r"\w+", answer.lower()))


def _claims_right(turn: Turn, answer: str) -> float:
    """Part of a caption's claims that some reference caption mentions; 1 for a caption without claims."""
    right, wrong = _claims_counted(turn, answer)
    return right / (right + wrong) if right + wrong else 1.0


def _claims_counted(turn: Turn, answer: str) -> tuple[int, int]:
    """How many of a caption's claims some reference caption mentions, and how many none does."""
    said = [_mentioned(turn, claim.thing) for claim in claims_of(turn.question, answer)]
    return sum(said), len(said) - sum(said)


def _mentioned(turn: Turn, thing: str) -> bool:
    """Whether a reference caption names the thing or something that may mean it."""
    said = {singular(word) for caption in turn.facts["references"] for word in words_of(caption)}
    return bool(related(thing.rpartition(" ")[2]) & said)


_CHECK = {"check_claims": True, "rewrite": True}
LOOPS = (
    Loop("check: is it there? (photos)", Tag.VQA, "photos", "existence", _exists, _CHECK),
    Loop("check: is it there? (scenes)", Tag.VQA, "scenes", "existence", _exists, _CHECK),
    Loop("look closer: is it there? (photos)", Tag.VQA, "photos", "existence", _exists, {"closer": True}),
    Loop("look closer: is it there? (scenes)", Tag.VQA, "scenes", "existence", _exists, {"closer": True}),
    Loop("look closer: where is it? (photos)", Tag.REFER, "photos", None, first_box, {"closer": True}),
    Loop("look closer: where is it? (scenes)", Tag.REFER, "scenes", None, first_box, {"closer": True}),
    Loop("check: where is it? (photos)", Tag.REFER, "photos", None, first_box, {"check_claims": True}),
    Loop("check: claims of captions (photos)", Tag.CAPTION, "photos", None, _claims_right, _CHECK),
    Loop("agree: how many? (photos)", Tag.VQA, "photos", "count", _count_right, {"agreement": True}),
    Loop("agree: how many? (scenes)", Tag.VQA, "scenes", "count", _count_right, {"agreement": True}),
    Loop("read text (scenes)", Tag.VQA, "scenes", "text", _text_right, {"read": True}),
)


class LookAgain(Model):
    """A model that looks at its first answer again: more than one question a sample.

    Args:
        identity: of the model.
        ask: the model.
        options: of `look_again`.
        workers: samples at the same time.
    """

    def __init__(self, identity: str, ask: Ask, options: Mapping[str, Any], workers: int) -> None:
        self._identity, self._ask = identity, ask
        self._options, self._workers = options, workers

    @property
    def identity(self) -> str:
        return self._identity

    def generate(
        self, samples: Sequence[Sample], *, max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        """`fields` tells the first answer and how the last one came about; `max_tokens` is `ask`'s."""
        with ThreadPoolExecutor(self._workers) as pool:
            running = {pool.submit(self._look, sample): sample for sample in samples}
            try:
                for done in as_completed(running):
                    on_output(running[done], done.result())
            finally:
                pool.shutdown(cancel_futures=True)

    def _look(self, sample: Sample) -> Output:
        image = sample.picture()
        assert image is not None
        start = time.perf_counter()
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.prompt}]}
        first = self._ask([message], [image])
        seconds = time.perf_counter() - start
        looked = look_again(self._ask, image, sample.prompt, first, budget=Budget(), **self._options)
        told = {
            "first": first,
            "seconds_first": seconds,
            "seconds_loop": looked.seconds,
            "calls": looked.calls,
            "stopped": looked.stopped,
            "verdicts": [[checked.claim.thing, checked.verdict] for checked in looked.claims],
            "agrees": None if looked.agreement is None else str(looked.agreement.agrees),
        }
        return Output(looked.answer, fields=told)


def run_look_again(
    model: Model,
    *,
    limit: int,
    out: Path,
    seed: int = 0,
    only: Sequence[str] = (),
    sources: Sequence[str] = SOURCES,
    workers: int = 4,
) -> dict[str, Any]:
    """Measure all loops, or those whose name holds one of `only`; every figure as JSON.

    Args:
        model: an `EngineModel` or an `EndpointModel`.
        limit: questions a loop.
        out: folder of the answers; what is there is not asked again.
        seed: draws other held-out questions.
        only: parts of names.
        sources: of "photos" and "scenes".
        workers: questions at the same time; 1 for honest seconds.
    """
    here = [loop for loop in LOOPS if loop.source in sources]
    loops = [loop for loop in here if not only or any(part in loop.name for part in only)]
    if not loops:
        raise UserError(f"no loop is called {', '.join(only)}; there are: {'; '.join(loop.name for loop in here)}")
    if any(loop.options.get("read") for loop in loops) and find_spec("rapidocr") is None:
        raise UserError(
            'reading text needs the extra "ocr": pip install "fourfold[ocr]", or choose other loops by --arm'
        )
    tasks = [(loop, task) for loop in loops if (task := loop.task(limit, seed)).samples]
    measured: dict[str, Any] = {"model": model.identity, "budget": asdict(Budget()), "max_tokens": _MAX_TOKENS}
    results = []
    with EvalLog(out / "answers.jsonl", {"suite": "loops", **measured}) as log:
        for loop, task in tasks:
            looking = LookAgain(model.identity, _ask_of(model), loop.options, workers)
            results.append(summary(loop, task, run(task, looking, log)))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {**measured, "seed": seed, "workers": workers, "date": date, "results": results}


def _ask_of(model: Model) -> Ask:
    """Greedy answers of a model."""
    if isinstance(model, EndpointModel):
        from fourfold.assistant.chat.conversation import connect

        options = {"max_tokens": _MAX_TOKENS, "extra_body": {"memory": False}}
        return ask_with(connect(addresses(model.urls[0])[0], model.identity, model.api_key, **options))
    if not isinstance(model, EngineModel):
        raise UserError("looking again needs a checkpoint or an endpoint")
    from fourfold.serving.engine.requests import Request, Sampling

    def ask(messages: list[dict[str, Any]], images: list[Any]) -> str:
        request = Request(with_images(messages, images), Sampling(max_tokens=_MAX_TOKENS))
        return model.engine.generate([request])[0].text

    return ask


def summary(loop: Loop, task: Task, outputs: Mapping[str, Output]) -> dict[str, Any]:
    """The figures of one loop; plain JSON."""
    turns, images = [sample.reference for sample in task.samples], task.clusters
    rows = [outputs[sample.id] for sample in task.samples]
    before = [loop.score(turn, row.fields["first"]) for turn, row in zip(turns, rows, strict=True)]
    after = [loop.score(turn, row.text or "") for turn, row in zip(turns, rows, strict=True)]
    change = paired(before, after, images)
    right = [row for row, value in enumerate(before) if value == 1]
    return {
        "loop": loop.name,
        "items": len(rows),
        "images": len(set(images)),
        "before": clustered_mean(before, images).to_json(),
        "after": clustered_mean(after, images).to_json(),
        "difference": change.difference.to_json(),
        "p_value": change.p_value,
        "mended": change.better,
        "broken": change.worse,
        "right_that_broke_percent": 100 * sum(after[row] < 1 for row in right) / len(right) if right else None,
        "calls": statistics.mean(row.fields["calls"] for row in rows),
        "seconds_first": statistics.median(row.fields["seconds_first"] for row in rows),
        "seconds_loop": statistics.median(row.fields["seconds_loop"] for row in rows),
        "stopped": sum(row.fields["stopped"] is not None for row in rows),
        **_details(turns, before, rows),
    }


def _details(turns: Sequence[Turn], before: Sequence[float], rows: Sequence[Output]) -> dict[str, Any]:
    """Verdicts against the truth, and how right the answers are that agree with themselves."""
    verdicts: dict[str, list[float]] = {}
    agrees: dict[str, list[float]] = {}
    for turn, right, row in zip(turns, before, rows, strict=True):
        for thing, verdict in row.fields["verdicts"]:
            truth = float(_mentioned(turn, thing)) if "references" in turn.facts else right
            verdicts.setdefault(verdict, []).append(truth)
        if row.fields["agrees"] is not None:
            agrees.setdefault(row.fields["agrees"], []).append(right)
    details: dict[str, Any] = {
        name: {key: {"n": len(v), "right_percent": 100 * statistics.mean(v)} for key, v in found.items()}
        for name, found in (("verdicts", verdicts), ("agrees", agrees))
        if found
    }
    if all("references" in turn.facts for turn in turns):
        # A caption that says nothing has no wrong claim either, so both sorts are told.
        for when, texts in (("before", [r.fields["first"] for r in rows]), ("after", [r.text or "" for r in rows])):
            right, wrong = map(statistics.mean, zip(*map(_claims_counted, turns, texts), strict=True))
            details.setdefault("claims", {})[when] = {"right": right, "wrong": wrong}
    return details


_AGREES = {"True": "agree", "False": "contradict each other", "None": "cannot be compared"}


def _parts(found: Mapping[str, Mapping[str, Any]], whose: str) -> str:
    return ", ".join(
        f"{name} {part['n']} ({part['right_percent']:.1f} % {whose} right)" for name, part in found.items()
    )


def look_again_markdown(measured: Mapping[str, Any]) -> str:
    """What `run_look_again` returns as Markdown."""
    rows, told = [], []
    for r in measured["results"]:
        broke = r["right_that_broke_percent"]
        rows.append([
            r["loop"], r["items"], f"{r['before']['value']:.1f}", f"{r['after']['value']:.1f}", signed(r),
            f"{r['p_value']:.3f}", f"{r['mended']} / {r['broken']}", "-" if broke is None else f"{broke:.1f} %",
            f"{r['calls']:.1f}", f"{r['seconds_first']:.1f} / {r['seconds_loop']:.1f}",
        ])  # fmt: skip
        if "claims" in r:
            before, after = r["claims"]["before"], r["claims"]["after"]
            told.append(
                f"- {r['loop']}, claims a caption: {before['right']:.2f} right and {before['wrong']:.2f} wrong before, "
                f"{after['right']:.2f} right and {after['wrong']:.2f} wrong after."
            )
        if "verdicts" in r:
            told.append(f"- {r['loop']}, what was said: {_parts(dict(sorted(r['verdicts'].items())), 'of them')}.")
        if "agrees" in r:
            agrees = {_AGREES[k]: v for k, v in sorted(r["agrees"].items(), reverse=True)}
            told.append(f"- {r['loop']}, number, yes or no, and boxes: {_parts(agrees, 'of the first answers')}.")
    heads = ["loop", "items", "before", "after", "difference [95 %]", "p", "mended / broken", "right ones broken"]
    lines = [
        f"Model `{measured['model']}`, measured {measured['date'][:10]}; "
        f"seed {measured['seed']}, {measured['workers']} items at the same time. Before and after are percent right; "
        "in brackets the 95 % interval of the difference, p by flipping the signs of whole images. Questions and "
        "seconds are an answer's: the mean, and the median.",
        "",
        *markdown_table([*heads, "questions", "s first / loop"], rows),
    ]
    return "\n".join([*lines, *([""] if told else []), *told]) + "\n"
