"""Does looking again help? Every loop of `assistant.look_again`, before and after, on held-out photos and scenes.

    python -m benchmarks.loop --limit 60 --out out/loop

Each row of the table compares a model's first answers with those after one loop, on the same items: how many are
right, how many wrong answers it mended and how many right ones it broke, what it cost in questions and seconds, and a
sign-flip test over whole images. The loops' rules were fixed before anything was measured here.

`OUT/answers.jsonl` gets a line an item, so a run that was stopped goes on with the same command; `OUT/loop.json` holds
every figure and `OUT/loop.md` the table.
"""

import argparse
import contextlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.loop_table import table
from fourfold.assistant.chat.look_again import Ask, Budget, claims_of, look_again, with_images
from fourfold.assistant.chat.look_again.agreement import number_in
from fourfold.assistant.chat.look_again.asking import yes_or_no
from fourfold.assistant.english import related, singular, words_of
from fourfold.assistant.grounding import parse
from fourfold.assistant.training.data import Sample, held_out
from fourfold.eval.log import AnswerLog, model_fingerprint, write_whole
from fourfold.eval.statistics import clustered_mean, paired
from fourfold.prompts.tasks import Task

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

_MAX_TOKENS = 96
Records = Mapping[str, Mapping[str, Any]]
"""What became of each item, by `key`."""


@dataclass(frozen=True)
class Loop:
    """One loop on one sort of item.

    Attributes:
        name: as the table calls it.
        task, source, kind: which held-out items; `kind` None for all of the task.
        score: (sample, answer) -> 0..1.
        options: of `look_again`.
    """

    name: str
    task: Task
    source: str
    kind: str | None
    score: Callable[[Sample, str], float]
    options: dict[str, Any] = field(default_factory=dict)


def exists(sample: Sample, answer: str) -> float:
    """Right yes or no; anything else is wrong."""
    return float(yes_or_no(answer) == (sample.turns[0].answer == "yes"))


def box_right(sample: Sample, answer: str) -> float:
    """IoU of the first box at least 0.5."""
    boxes = [box for phrase in parse(answer).phrases for box in phrase.boxes]
    return float(bool(boxes) and boxes[0].iou(sample.turns[0].boxes[0]) >= 0.5)


def count_right(sample: Sample, answer: str) -> float:
    """The right number."""
    return float(number_in(answer) == int(sample.turns[0].answer))


def text_right(sample: Sample, answer: str) -> float:
    """The written word, in upper or lower case, is in the answer."""
    return float(sample.turns[0].answer.lower() in re.findall(r"\w+", answer.lower()))


def claims_right(sample: Sample, answer: str) -> float:
    """Part of a caption's claims that some reference caption mentions; 1 for a caption without claims."""
    right, wrong = claims_counted(sample, answer)
    return right / (right + wrong) if right + wrong else 1.0


def claims_counted(sample: Sample, answer: str) -> tuple[int, int]:
    """How many of a caption's claims some reference caption mentions, and how many none does."""
    said = [mentioned(sample, claim.thing) for claim in claims_of(sample.turns[0].question, answer)]
    return sum(said), len(said) - sum(said)


def mentioned(sample: Sample, thing: str) -> bool:
    """Whether a reference caption names the thing or something that may mean it."""
    said = {singular(word) for caption in sample.turns[0].facts["references"] for word in words_of(caption)}
    return bool(related(thing.rpartition(" ")[2]) & said)


CHECK = {"check_claims": True, "rewrite": True}
LOOPS = (
    Loop("check: is it there? (photos)", Task.VQA, "photos", "existence", exists, CHECK),
    Loop("check: is it there? (scenes)", Task.VQA, "scenes", "existence", exists, CHECK),
    Loop("look closer: is it there? (photos)", Task.VQA, "photos", "existence", exists, {"closer": True}),
    Loop("look closer: is it there? (scenes)", Task.VQA, "scenes", "existence", exists, {"closer": True}),
    Loop("look closer: where is it? (photos)", Task.REFER, "photos", None, box_right, {"closer": True}),
    Loop("look closer: where is it? (scenes)", Task.REFER, "scenes", None, box_right, {"closer": True}),
    Loop("check: where is it? (photos)", Task.REFER, "photos", None, box_right, {"check_claims": True}),
    Loop("check: claims of captions (photos)", Task.CAPTION, "photos", None, claims_right, CHECK),
    Loop("agree: how many? (photos)", Task.VQA, "photos", "count", count_right, {"agreement": True}),
    Loop("agree: how many? (scenes)", Task.VQA, "scenes", "count", count_right, {"agreement": True}),
    Loop("read text (scenes)", Task.VQA, "scenes", "text", text_right, {"read": True}),
)


def items_of(loop: Loop, seed: int, limit: int) -> list[Sample]:
    """At most `limit` held-out items of a loop, the same for the same seed."""
    shares = {"existence": 2, "count": 10, "text": 40}  # vqa's limit is shared among its kinds
    wanted = limit * shares.get(loop.kind or "", 1)
    if loop.source == "scenes" and loop.kind is not None:
        wanted = max(wanted, 800)  # written words are rare, and scenes cost nothing until they are rendered
    samples = held_out(loop.task, loop.source, seed, wanted)
    if loop.kind is not None:
        samples = [sample for sample in samples if sample.turns[0].facts["kind"] == loop.kind]
    return samples[:limit]


def key(loop: Loop, sample: Sample) -> str:
    """The item's name in the log."""
    return f"{loop.name}/{sample.image.id}/{sample.turns[0].question}"


def look(loop: Loop, sample: Sample, ask: Ask, budget: Budget) -> dict[str, Any]:
    """Ask, look again, and say what came of it as plain JSON."""
    image, question = sample.image.open(), sample.turns[0].question
    start = time.perf_counter()
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    first = ask([message], [image])
    seconds = time.perf_counter() - start
    looked = look_again(ask, image, question, first, budget=budget, **loop.options)
    return {
        "first": first,
        "answer": looked.answer,
        "seconds_first": seconds,
        "seconds_loop": looked.seconds,
        "calls": looked.calls,
        "stopped": looked.stopped,
        "verdicts": [[checked.claim.thing, checked.verdict] for checked in looked.claims],
        "agrees": None if looked.agreement is None else str(looked.agreement.agrees),
    }


def measure(loop: Loop, samples: Sequence[Sample], ask: Ask, budget: Budget, workers: int, log: AnswerLog) -> None:
    """Look at every sample that the log does not have yet."""
    waiting = [sample for sample in samples if key(loop, sample) not in log.done]
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(look, loop, sample, ask, budget): sample for sample in waiting}
        try:
            for done in as_completed(running):
                log.add(key(loop, running[done]), **done.result())
        finally:
            pool.shutdown(cancel_futures=True)


def summary(loop: Loop, samples: Sequence[Sample], records: Records) -> dict[str, Any]:
    """The figures of one loop; plain JSON."""
    rows = [records[key(loop, sample)] for sample in samples]
    before = [loop.score(sample, row["first"]) for sample, row in zip(samples, rows, strict=True)]
    after = [loop.score(sample, row["answer"]) for sample, row in zip(samples, rows, strict=True)]
    images = [sample.image.id for sample in samples]
    change = paired(before, after, images)
    right = [i for i, value in enumerate(before) if value == 1]
    return {
        "loop": loop.name,
        "items": len(samples),
        "images": len(set(images)),
        "before": clustered_mean(before, images).to_json(),
        "after": clustered_mean(after, images).to_json(),
        "difference": change.difference.to_json(),
        "p_value": change.p_value,
        "mended": change.better,
        "broken": change.worse,
        "right_that_broke_percent": 100 * sum(after[i] < 1 for i in right) / len(right) if right else None,
        "calls": statistics.mean(row["calls"] for row in rows),
        "seconds_first": statistics.median(row["seconds_first"] for row in rows),
        "seconds_loop": statistics.median(row["seconds_loop"] for row in rows),
        "stopped": sum(row["stopped"] is not None for row in rows),
        **_details(samples, before, rows),
    }


def _details(samples: Sequence[Sample], before: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Verdicts against the truth, and how right the answers are that agree with themselves."""
    verdicts: dict[str, list[float]] = {}
    agrees: dict[str, list[float]] = {}
    for sample, right, row in zip(samples, before, rows, strict=True):
        for thing, verdict in row["verdicts"]:
            truth = float(mentioned(sample, thing)) if "references" in sample.turns[0].facts else right
            verdicts.setdefault(verdict, []).append(truth)
        if row["agrees"] is not None:
            agrees.setdefault(row["agrees"], []).append(right)
    details: dict[str, Any] = {
        name: {key: {"n": len(v), "right_percent": 100 * statistics.mean(v)} for key, v in table.items()}
        for name, table in (("verdicts", verdicts), ("agrees", agrees))
        if table
    }
    if all("references" in sample.turns[0].facts for sample in samples):
        # A caption that says nothing has no wrong claim either, so both sorts are told.
        for time_, field_ in (("before", "first"), ("after", "answer")):
            pairs = [claims_counted(sample, row[field_]) for sample, row in zip(samples, rows, strict=True)]
            right, wrong = (statistics.mean(one) for one in zip(*pairs, strict=True))
            details.setdefault("claims", {})[time_] = {"right": right, "wrong": wrong}
    return details


def engine_ask(engine: "Engine") -> Ask:
    """Greedy answers of a local engine."""
    from fourfold.serving.engine.requests import Request, Sampling

    def ask(messages: list[dict[str, Any]], images: list) -> str:
        return engine.generate([Request(with_images(messages, images), Sampling(max_tokens=_MAX_TOKENS))])[0].text

    return ask


def main() -> None:
    """Measure all loops, or those whose name holds `--only`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint directory or name; default: fourfold-mini")
    parser.add_argument("--limit", type=int, default=60, help="items a loop")
    parser.add_argument("--seed", type=int, default=0, help="draws other held-out items")
    parser.add_argument("--only", default="", help="part of a loop's name")
    parser.add_argument("--workers", type=int, default=4, help="items at the same time; 1 for honest seconds")
    parser.add_argument("--out", type=Path, default=Path("out/loop"), help="folder of this run")
    given = parser.parse_args()

    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.serving.engine.engine import Engine

    directory = resolve_model(given.model)
    measured: dict[str, Any] = {
        "model": directory.name,
        "fingerprint": model_fingerprint(directory),
        "budget": asdict(Budget()),
        "max_tokens": _MAX_TOKENS,
    }
    plans = [(loop, items_of(loop, given.seed, given.limit)) for loop in LOOPS if given.only in loop.name]
    plans = [(loop, samples) for loop, samples in plans if samples]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(AnswerLog(given.out / "answers.jsonl", {"suite": "loops", **measured}))
        if any(key(loop, sample) not in log.done for loop, samples in plans for sample in samples):
            ask = engine_ask(stack.enter_context(Engine.load(directory)))
            for loop, samples in plans:
                print(f"{loop.name}: {len(samples)} items", file=sys.stderr, flush=True)
                measure(loop, samples, ask, Budget(), given.workers, log)
        measured |= {
            "seed": given.seed,
            "workers": given.workers,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        measured["results"] = [summary(loop, samples, log.done) for loop, samples in plans]
    write_whole(given.out / "loop.json", json.dumps(measured, indent=1) + "\n")
    write_whole(given.out / "loop.md", table(measured))
    print(table(measured))


if __name__ == "__main__":
    main()
