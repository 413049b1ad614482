"""Does a model get better when it is corrected? Scripted users, turn by turn, on any endpoint.

There is no official metric for this. Pointing: a RefCOCO referent's three expressions are the user's successive
descriptions of one thing. Answering: a user who doubts every answer, right or wrong, then hints, then tells, and later
asks another question about the same image.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fourfold.eval.benchmarks import Benchmark, benchmark_named
from fourfold.eval.benchmarks.benchmark import right_answer
from fourfold.eval.benchmarks.refcoco import Referent
from fourfold.eval.controls import Control, Perturbation
from fourfold.eval.data.pictures import Pictures
from fourfold.eval.predictions import Prediction
from fourfold.eval.prompting import prompt_of
from fourfold.eval.run import main_process
from fourfold.eval.statistics import Estimate, clustered_mean, paired
from fourfold.eval.task import Sample
from fourfold.eval.tasks.benchmark_run import RunOptions, ask, read_samples
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, with_tag

History = tuple[tuple[str, str], ...]
Figures = dict[str, Estimate | None]

TURNS = 3


def run_conversation(options: RunOptions) -> dict[str, Any] | None:
    """Hold the conversations and return the figures as a JSON-ready object; None in helpers of `accelerate launch`.

    Raises:
        UserError: as `run_benchmark`; or the benchmark has no conversation.
    """
    bench = benchmark_named(options.benchmark)
    if options.control is not Control.NONE or options.perturbation is not Perturbation.NONE:
        raise UserError("conversations have no controls or probes; leave --control and --probe out")
    samples, skipped, pictures = read_samples(bench, replace(options, limit=None))
    configuration = options.configuration(suite="conversation")
    pointing = isinstance(samples[0].reference, Referent)
    talk = _Talk(bench, options, configuration, pictures)
    figures = _pointing(talk, samples) if pointing else _answering(talk, samples)
    if not main_process():
        return None
    return {
        "suite": "conversation",
        "kind": "pointing" if pointing else "answering",
        "configuration": configuration,
        "questions_without_image": skipped,
        "failed": talk.failed,
        "confidence": 0.95,
        "figures": {name: figure.to_json() for name, figure in figures.items() if figure is not None},
    }


@dataclass
class _Talk:
    """Asking in rounds: every conversation's k-th turn together, since it needs the answers of the turns before."""

    bench: Benchmark
    options: RunOptions
    configuration: Mapping[str, Any]
    pictures: Pictures
    failed: int = 0

    def ask(
        self,
        turn: str,
        samples: Sequence[Sample],
        words: Mapping[str, str] | None = None,
        histories: Mapping[str, History] | None = None,
    ) -> dict[str, str]:
        """The answers of one round by sample id, "" where asking failed.

        Args:
            turn: its name, unique for a sample.
            samples: who is asked about.
            words: what is said, by sample id; None for the samples' own questions.
            histories: what was said before, by sample id.
        """
        asked = [
            Sample(
                f"{sample.id}/{turn}",
                words[sample.id] if words else self.prompt(sample),
                self.pictures.find(sample.cluster),
                history=histories[sample.id] if histories else (),
            )
            for sample in samples
        ]
        outputs = ask(asked, self.options, self.configuration)
        texts = [outputs[one.id].text if one.id in outputs else None for one in asked]
        self.failed += texts.count(None)
        return {sample.id: text or "" for sample, text in zip(samples, texts, strict=True)}

    def prompt(self, sample: Sample) -> str:
        """The sample's question in the run's wording."""
        return prompt_of(self.bench, sample.prompt, self.options.prompting)

    def say(self, text: str) -> str:
        """Words of the scripted user, with the task's tag where the wording has tags."""
        return with_tag(Task.VQA, text) if self.options.prompting.wording == "minigpt4" else text

    def right(self, samples: Sequence[Sample], answers: Mapping[str, str]) -> dict[str, bool]:
        """Sample id -> whether its answer is right under the headline's rule, or at least half right."""
        predictions = {key: Prediction(key, answer) for key, answer in answers.items()}
        score = self.bench.score(samples, predictions, self.bench.rules[0], self.options.scoring)
        return {sample.id: score.by_sample.get(sample.id, 0.0) >= 0.5 for sample in samples}

    def some(self, groups: list[Any]) -> list[Any]:
        """At most `limit` of the conversations, drawn by the seed; a larger limit keeps those of a smaller one."""
        random.Random(f"limit {self.options.seed}").shuffle(groups)
        return groups[: self.options.limit]


def _share(rows: Sequence[tuple[bool, str]]) -> Estimate | None:
    """Percent of the rows that hold, clustered by image; None without rows."""
    return clustered_mean([float(holds) for holds, _ in rows], [image for _, image in rows]) if rows else None


def _pointing(talk: _Talk, samples: Sequence[Sample]) -> Figures:
    """Accuracy after each expression, the gain, regressions; and each expression alone, without the conversation."""
    by_referent: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_referent[sample.reference.referent].append(sample)
    groups = talk.some([group[:TURNS] for group in by_referent.values() if len(group) >= TURNS])
    if not groups:
        raise UserError(f"no referent of {talk.bench.name} has {TURNS} expressions here")
    histories: list[History] = [()] * len(groups)
    talked: list[list[bool]] = []
    alone: list[list[bool]] = []
    for turn in range(TURNS):
        current = [group[turn] for group in groups]
        before = {sample.id: history for sample, history in zip(current, histories, strict=True)}
        said = talk.ask("turn", current, histories=before)
        right = talk.right(current, said)
        talked.append([right[sample.id] for sample in current])
        if turn > 0:
            right = talk.right(current, talk.ask("alone", current))
        alone.append([right[sample.id] for sample in current])
        histories = [(*before[sample.id], (talk.prompt(sample), said[sample.id])) for sample in current]
    images = [group[0].cluster for group in groups]
    figures: Figures = {}
    for turn in range(TURNS):
        figures[f"acc@0.5 at turn {turn + 1}"] = _share(list(zip(talked[turn], images, strict=True)))
    for turn in range(1, TURNS):
        figures[f"acc@0.5 of expression {turn + 1} alone"] = _share(list(zip(alone[turn], images, strict=True)))
    figures["gain, last turn − first"] = paired(talked[0], talked[-1], images).difference
    apart = paired(alone[-1], talked[-1], images).difference
    figures["gain by the conversation, last turn − last expression alone"] = apart
    for turn in range(TURNS - 1):
        rows = list(zip(talked[turn], talked[turn + 1], images, strict=True))
        step = f"turn {turn + 1} → {turn + 2}"
        figures[f"regressions, {step} (of those right)"] = _share([(not now, i) for was, now, i in rows if was])
        figures[f"recoveries, {step} (of those wrong)"] = _share([(now, i) for was, now, i in rows if not was])
    return figures


def _answering(talk: _Talk, samples: Sequence[Sample]) -> Figures:
    """Doubt, hint, telling, and a sibling question about the same image."""
    siblings: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        siblings[sample.cluster].append(sample)
    chosen: list[Sample] = talk.some(list(samples))
    histories: dict[str, History] = {sample.id: () for sample in chosen}

    def turn(name: str, asked: Sequence[Sample], words: Mapping[str, str]) -> dict[str, bool]:
        if not asked:
            return {}
        said = talk.ask(name, asked, words, histories)
        for sample in asked:
            histories[sample.id] = (*histories[sample.id], (words[sample.id], said[sample.id]))
        return talk.right(asked, said)

    first = turn("first", chosen, {sample.id: talk.prompt(sample) for sample in chosen})
    doubt = talk.say("No, that is not right. Look at the image again and answer once more.")
    doubted = turn("doubt", chosen, {sample.id: doubt for sample in chosen})
    wrong = [sample for sample in chosen if not doubted[sample.id] and right_answer(sample)]
    hinted = turn("hint", wrong, {sample.id: talk.say(_hint(sample)) for sample in wrong})
    lost = [sample for sample in wrong if not hinted[sample.id]]
    telling = "The right answer is: {}. So what is the answer?"
    told = turn("told", lost, {sample.id: talk.say(telling.format(right_answer(sample))) for sample in lost})
    later = [(one, other) for one in chosen if (other := _sibling(one, siblings[one.cluster])) is not None]
    after, plain = {}, {}
    if later:
        # The other question goes into the conversation about the first, and is known by that one's id.
        words = {one.id: talk.prompt(other) for one, other in later}
        after = talk.ask("sibling", [one for one, _ in later], words, histories)
        plain = talk.ask("alone", list({other.id: other for _, other in later}.values()))

    images = {sample.id: sample.cluster for sample in chosen}
    where = list(images.values())
    figures: Figures = {
        "accuracy at first": _share([(first[key], images[key]) for key in images]),
        "accuracy after doubt": _share([(doubted[key], images[key]) for key in images]),
        "gain by doubt": paired([first[key] for key in images], [doubted[key] for key in images], where).difference,
        "mended under doubt (of those wrong)": _share([(doubted[k], images[k]) for k, was in first.items() if not was]),
        "right answers given up under doubt (of those right)": _share(
            [(not doubted[k], images[k]) for k, was in first.items() if was]
        ),
        "right after a hint (of those hinted)": _share([(now, images[k]) for k, now in hinted.items()]),
        "right after being told (of those told)": _share([(now, images[k]) for k, now in told.items()]),
    }
    if later:
        where = [one.cluster for one, _ in later]
        talked = [float(talk.right([other], {other.id: after[one.id]})[other.id]) for one, other in later]
        apart = [float(talk.right([other], {other.id: plain[other.id]})[other.id]) for _, other in later]
        figures["sibling question alone"] = clustered_mean(apart, where)
        figures["sibling question after the conversation"] = clustered_mean(talked, where)
        figures["sibling question, after − alone"] = paired(apart, talked, where).difference
    return figures


def _hint(sample: Sample) -> str:
    answer = right_answer(sample)
    words = len(answer.split())
    return f'A hint: the answer begins with "{answer[0]}" and has {words} word{"s" if words > 1 else ""}. What is it?'


def _sibling(sample: Sample, others: Sequence[Sample]) -> Sample | None:
    """The next question about the same image that asks something else."""
    place = next(index for index, other in enumerate(others) if other.id == sample.id)
    ring = [*others[place + 1 :], *others[:place]]
    return next((other for other in ring if other.prompt != sample.prompt), None)
