"""Does looking again help? Every loop of `assistant.look_again`, before and after, on held-out photos and scenes.

    python -m benchmarks.loop --limit 200 --json out/loop.json

Each row of the table compares a model's first answers with those after one loop, on the same items: how many are
right, how many wrong answers it mended and how many right ones it broke, what it cost in questions and seconds, and a
sign-flip test over whole images. The loops' rules were fixed before anything was measured here.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.grounding import parse
from assistant.look_again import Ask, Budget, LookedAgain, claims_of, look_again, with_images
from assistant.look_again.agreement import number_in
from assistant.look_again.asking import yes_or_no
from assistant.training.data import Sample, held_out
from assistant.training.data.words import related, singular, words_of
from eval.statistics import clustered_mean, paired
from prompts.tasks import Task

if TYPE_CHECKING:
    from serving.engine import Engine


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
    right = [mentioned(sample, claim.thing) for claim in claims_of(sample.turns[0].question, answer)]
    return sum(right) / len(right) if right else 1.0


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


def run(loop: Loop, samples: Sequence[Sample], ask: Ask, budget: Budget, workers: int) -> dict[str, Any]:
    """Measure one loop; the result is plain JSON."""

    def one(sample: Sample) -> tuple[str, float, LookedAgain]:
        image, question = sample.image.open(), sample.turns[0].question
        start = time.perf_counter()
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        first = ask([message], [image])
        seconds = time.perf_counter() - start
        return first, seconds, look_again(ask, image, question, first, budget=budget, **loop.options)

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(one, samples))
    wall = time.perf_counter() - start
    before = [loop.score(sample, first) for sample, (first, _, _) in zip(samples, results, strict=True)]
    after = [loop.score(sample, looked.answer) for sample, (_, _, looked) in zip(samples, results, strict=True)]
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
        "calls": statistics.mean(looked.calls for *_, looked in results),
        "seconds_first": statistics.median(seconds for _, seconds, _ in results),
        "seconds_loop": statistics.median(looked.seconds for *_, looked in results),
        "wall_seconds": wall,
        "stopped": sum(looked.stopped is not None for *_, looked in results),
        **_details(samples, before, [looked for *_, looked in results]),
    }


def _details(samples: Sequence[Sample], before: Sequence[float], looked: Sequence[LookedAgain]) -> dict[str, Any]:
    """Verdicts against the truth, and how right the answers are that agree with themselves."""
    details: dict[str, Any] = {}
    verdicts: dict[str, list[float]] = {}
    agrees: dict[str, list[float]] = {}
    for sample, right, result in zip(samples, before, looked, strict=True):
        for checked in result.claims:
            if "references" in sample.turns[0].facts:
                right = float(mentioned(sample, checked.claim.thing))
            verdicts.setdefault(checked.verdict, []).append(right)
        if result.agreement is not None:
            agrees.setdefault(str(result.agreement.agrees), []).append(right)
    for name, table in (("verdicts", verdicts), ("agrees", agrees)):
        if table:
            details[name] = {key: {"n": len(v), "right_percent": 100 * statistics.mean(v)} for key, v in table.items()}
    return details


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| loop | items | before | after | difference [95 %] | p | mended / broken | right ones broken | questions |"
        " s first / loop |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        d, broke = r["difference"], r["right_that_broke_percent"]
        interval = f" [{d['low']:+.1f}, {d['high']:+.1f}]" if d["low"] is not None else ""
        lines.append(
            f"| {r['loop']} | {r['items']} | {r['before']['value']:.1f} | {r['after']['value']:.1f} "
            f"| {d['value']:+.1f}{interval} | {r['p_value']:.3f} | {r['mended']} / {r['broken']} "
            f"| {'-' if broke is None else f'{broke:.1f} %'} | {r['calls']:.1f} "
            f"| {r['seconds_first']:.1f} / {r['seconds_loop']:.1f} |"
        )
    for r in results:
        for name in ("verdicts", "agrees"):
            if name in r:
                cells = (f"{key}: {v['right_percent']:.1f} % right of {v['n']}" for key, v in sorted(r[name].items()))
                lines.append(f"\n{r['loop']}, {name}: {'; '.join(cells)}")
    return "\n".join(lines)


def engine_ask(engine: "Engine", max_tokens: int = 96) -> Ask:
    """Greedy answers of a local engine."""
    from serving.requests import Request, Sampling

    def ask(messages: list[dict[str, Any]], images: list) -> str:
        return engine.generate([Request(with_images(messages, images), Sampling(max_tokens=max_tokens))])[0].text

    return ask


def main() -> None:
    """Measure all loops, or those whose name holds `--only`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint directory or name; default: fourfold-mini")
    parser.add_argument("--limit", type=int, default=200, help="items a loop")
    parser.add_argument("--seed", type=int, default=0, help="draws other held-out items")
    parser.add_argument("--only", default="", help="part of a loop's name")
    parser.add_argument("--workers", type=int, default=4, help="items at the same time; 1 for honest seconds")
    parser.add_argument("--json", type=Path, help="where to write everything")
    given = parser.parse_args()

    from assistant.checkpoints.resolve import resolve_model
    from serving.engine import Engine

    directory = resolve_model(given.model)
    results = []
    with Engine.load(directory) as engine:
        ask = engine_ask(engine)
        for loop in LOOPS:
            if given.only not in loop.name:
                continue
            samples = items_of(loop, given.seed, given.limit)
            if not samples:
                print(f"{loop.name}: no items", file=sys.stderr)
                continue
            results.append(run(loop, samples, ask, Budget(), given.workers))
            print(f"{loop.name}: {results[-1]['wall_seconds']:.0f} s", file=sys.stderr)
            if given.json:
                setup = {
                    "model": engine.model_name,
                    "seed": given.seed,
                    "workers": given.workers,
                    "budget": asdict(Budget()),
                }
                given.json.parent.mkdir(parents=True, exist_ok=True)
                given.json.write_text(json.dumps(setup | {"results": results}, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
