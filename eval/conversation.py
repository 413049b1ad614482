"""Does a model get better when it is corrected? Scripted users, turn by turn, on any endpoint.

There is no official metric for this. Pointing: a RefCOCO referent's three expressions are the user's successive
descriptions of one thing. Answering: a user who doubts every answer, right or wrong, then hints, then tells, and later
asks another question about the same image.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fourfold.eval.asking import Ask, Control, prompt_of, right_answer
from fourfold.eval.images import ImageFolder
from fourfold.eval.predictions import Prediction
from fourfold.eval.probes import Probe
from fourfold.eval.runner import RunOptions, claim, configuration_of, questions_of
from fourfold.eval.statistics import Estimate, clustered_mean, paired
from fourfold.eval.tasks import Benchmark, Item, benchmark_named
from fourfold.eval.tasks.refcoco import Referent
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, with_tag

Answers = dict[str, str]
"""Sample key -> answer; a sample that failed has none."""

TURNS = 3


def run_conversation(options: RunOptions) -> dict[str, Any] | None:
    """Hold the conversations and return the figures as a JSON-ready object; None in helpers of `accelerate launch`.

    Raises:
        UserError: as `run_benchmark`; or the benchmark has no conversation.
    """
    bench = benchmark_named(options.benchmark)
    if options.control is not Control.NONE or options.probe is not Probe.NONE:
        raise UserError("conversations have no controls or probes; leave --control and --probe out")
    items, skipped, folder = questions_of(bench, replace(options, limit=None))
    configuration = configuration_of(options, suite="conversation")
    claim(options.out, configuration)
    hold = _Talk(bench, options, configuration, folder)
    pointing = isinstance(items[0].reference, Referent)
    figures = _pointing(hold, items) if pointing else _answering(hold, items)
    if figures is None:
        return None
    return {
        "suite": "conversation",
        "kind": "pointing" if pointing else "answering",
        "configuration": configuration,
        "questions_without_image": skipped,
        "failed": hold.failed,
        "confidence": 0.95,
        "figures": {name: figure.to_json() for name, figure in figures.items()},
    }


class _Talk:
    """Asking in rounds: every conversation's k-th turn together, since it needs the answers of the turns before."""

    def __init__(
        self, bench: Benchmark, options: RunOptions, configuration: dict[str, Any], folder: ImageFolder
    ) -> None:
        self.bench, self.options, self.configuration, self.folder = bench, options, configuration, folder
        self.failed = 0

    def ask(self, asks: Sequence[Ask]) -> Answers | None:
        """The answers of one round."""
        if not asks:
            return {}
        records = self.options.answerer.answer(asks, self.options.out, self.configuration, self.options.manner)
        if records is None:
            return None
        found = {ask.key: records[ask.key]["answer"] for ask in asks if "answer" in records.get(ask.key, {})}
        self.failed += len(asks) - len(found)
        return found

    def prompt(self, item: Item) -> str:
        """The item's question in the run's wording."""
        return prompt_of(self.bench, item, self.options.manner)

    def say(self, text: str) -> str:
        """Words of the scripted user, with the task's tag where the wording has tags."""
        return with_tag(Task.VQA, text) if self.options.manner.wording == "minigpt4" else text

    def right(self, items: Sequence[Item], answers: Mapping[str, str]) -> dict[str, bool]:
        """Item id -> whether its answer (by item id) is right under the headline's rule, or at least half right."""
        predictions = {key: Prediction(key, answer) for key, answer in answers.items()}
        score = self.bench.score(items, predictions, self.bench.rules[0], self.options.scoring)
        return {item.id: score.by_item.get(item.id, 0.0) >= 0.5 for item in items}

    def some(self, groups: list[Any]) -> list[Any]:
        """At most `limit` of the conversations, drawn by the seed; a larger limit keeps those of a smaller one."""
        random.Random(f"limit {self.options.seed}").shuffle(groups)
        return groups[: self.options.limit]


def _share(rows: Sequence[tuple[bool, str]]) -> Estimate | None:
    """Percent of the rows that hold, clustered by image; None without rows."""
    return clustered_mean([float(holds) for holds, _ in rows], [image for _, image in rows]) if rows else None


def _pointing(talk: _Talk, items: Sequence[Item]) -> dict[str, Estimate] | None:
    """Accuracy after each expression, the gain, regressions; and each expression alone, without the conversation."""
    by_referent: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_referent[item.reference.referent].append(item)
    groups = talk.some([group[:TURNS] for group in by_referent.values() if len(group) >= TURNS])
    if not groups:
        raise UserError(f"no referent of {talk.bench.name} has {TURNS} expressions here")
    histories: list[tuple[tuple[str, str], ...]] = [()] * len(groups)
    talked: list[list[bool]] = []
    alone: list[list[bool]] = []
    for turn in range(TURNS):
        current = [group[turn] for group in groups]
        for label, kept, into in (("turn", histories, talked), ("alone", [()] * len(groups), alone)):
            if turn == 0 and label == "alone":
                into.append(talked[0])
                continue
            asks = [
                Ask(f"{item.id}/{label}", talk.prompt(item), talk.folder.find(item.image), history=history)
                for item, history in zip(current, kept, strict=True)
            ]
            answers = talk.ask(asks)
            if answers is None:
                return None
            said = {item.id: answers.get(f"{item.id}/{label}", "") for item in current}
            right = talk.right(current, said)
            into.append([right[item.id] for item in current])
            if label == "turn":
                histories = [
                    (*history, (talk.prompt(item), said[item.id]))
                    for item, history in zip(current, histories, strict=True)
                ]
    images = [group[0].image for group in groups]
    figures: dict[str, Estimate | None] = {}
    for turn in range(TURNS):
        figures[f"acc@0.5 at turn {turn + 1}"] = _share(list(zip(talked[turn], images, strict=True)))
    for turn in range(1, TURNS):
        figures[f"acc@0.5 of expression {turn + 1} alone"] = _share(list(zip(alone[turn], images, strict=True)))
    first, last = ([float(right) for right in talked[turn]] for turn in (0, -1))
    figures["gain, last turn − first"] = paired(first, last, images).difference
    apart = [float(right) for right in alone[-1]]
    figures["gain by the conversation, last turn − last expression alone"] = paired(apart, last, images).difference
    figures |= _changes(talked, images)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _changes(talked: Sequence[Sequence[bool]], images: Sequence[str]) -> dict[str, Estimate | None]:
    """Of those right at a turn, how many are wrong at the next; and the reverse."""
    figures = {}
    for turn in range(len(talked) - 1):
        rows = list(zip(talked[turn], talked[turn + 1], images, strict=True))
        step = f"turn {turn + 1} → {turn + 2}"
        figures[f"regressions, {step} (of those right)"] = _share([(not now, i) for was, now, i in rows if was])
        figures[f"recoveries, {step} (of those wrong)"] = _share([(now, i) for was, now, i in rows if not was])
    return figures


def _answering(talk: _Talk, items: Sequence[Item]) -> dict[str, Estimate] | None:
    """Doubt, hint, telling, and a sibling question about the same image."""
    siblings: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        siblings[item.image].append(item)
    chosen: list[Item] = talk.some(list(items))
    history: dict[str, tuple[tuple[str, str], ...]] = {item.id: () for item in chosen}

    def turn(name: str, asked: Sequence[Item], words: Mapping[str, str]) -> dict[str, bool] | None:
        asks = [
            Ask(f"{item.id}/{name}", words[item.id], talk.folder.find(item.image), history=history[item.id])
            for item in asked
        ]
        answers = talk.ask(asks)
        if answers is None:
            return None
        said = {item.id: answers.get(f"{item.id}/{name}", "") for item in asked}
        for item in asked:
            history[item.id] = (*history[item.id], (words[item.id], said[item.id]))
        return talk.right(asked, said)

    first = turn("first", chosen, {item.id: talk.prompt(item) for item in chosen})
    if first is None:
        return None
    doubt = talk.say("No, that is not right. Look at the image again and answer once more.")
    doubted = turn("doubt", chosen, {item.id: doubt for item in chosen})
    if doubted is None:
        return None
    wrong = [item for item in chosen if not doubted[item.id] and right_answer(item)]
    hinted = turn("hint", wrong, {item.id: talk.say(_hint(item)) for item in wrong}) if wrong else {}
    if hinted is None:
        return None
    lost = [item for item in wrong if not hinted[item.id]]
    told = turn("told", lost, {item.id: talk.say(_telling(item)) for item in lost}) if lost else {}
    if told is None:
        return None
    later = [(item, other) for item in chosen if (other := _sibling(item, siblings[item.image])) is not None]
    after = talk.ask(
        [
            Ask(f"{item.id}/sibling", talk.prompt(other), talk.folder.find(other.image), history=history[item.id])
            for item, other in later
        ]
    )
    if after is None:
        return None
    plain = talk.ask(
        [Ask(f"{other.id}/alone", talk.prompt(other), talk.folder.find(other.image)) for _, other in _once(later)]
    )
    if plain is None:
        return None

    images = {item.id: item.image for item in chosen}
    figures = {
        "accuracy at first": _share([(first[item.id], item.image) for item in chosen]),
        "accuracy after doubt": _share([(doubted[item.id], item.image) for item in chosen]),
        "gain by doubt": paired(
            [float(first[item.id]) for item in chosen],
            [float(doubted[item.id]) for item in chosen],
            [item.image for item in chosen],
        ).difference,
        "mended under doubt (of those wrong)": _share([(doubted[k], images[k]) for k, was in first.items() if not was]),
        "right answers given up under doubt (of those right)": _share(
            [(not doubted[k], images[k]) for k, was in first.items() if was]
        ),
        "right after a hint (of those hinted)": _share([(now, images[k]) for k, now in hinted.items()]),
        "right after being told (of those told)": _share([(now, images[k]) for k, now in told.items()]),
    }
    if later:
        talked, apart, where = [], [], []
        for item, other in later:
            talked.append(float(talk.right([other], {other.id: after.get(f"{item.id}/sibling", "")})[other.id]))
            apart.append(float(talk.right([other], {other.id: plain.get(f"{other.id}/alone", "")})[other.id]))
            where.append(item.image)
        figures["sibling question alone"] = clustered_mean(apart, where)
        figures["sibling question after the conversation"] = clustered_mean(talked, where)
        figures["sibling question, after − alone"] = paired(apart, talked, where).difference
    return {name: figure for name, figure in figures.items() if figure is not None}


def _hint(item: Item) -> str:
    answer = right_answer(item)
    words = len(answer.split())
    return f'A hint: the answer begins with "{answer[0]}" and has {words} word{"s" if words > 1 else ""}. What is it?'


def _telling(item: Item) -> str:
    return f"The right answer is: {right_answer(item)}. So what is the answer?"


def _sibling(item: Item, others: Sequence[Item]) -> Item | None:
    """The next question about the same image that asks something else."""
    place = next(index for index, other in enumerate(others) if other.id == item.id)
    ring = [*others[place + 1 :], *others[:place]]
    return next((other for other in ring if other.question != item.question), None)


def _once(pairs: Sequence[tuple[Item, Item]]) -> list[tuple[Item, Item]]:
    """Pairs without a second one for the same sibling."""
    return list({other.id: (item, other) for item, other in pairs}.values())
