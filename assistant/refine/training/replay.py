"""Batches of corrections and replay: every batch holds the same part of either, so that neither is forgotten."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, zip_longest

from fourfold.assistant.refine.questions import asked
from fourfold.assistant.refine.training.samples import TrainingTarget, plain
from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

_KEPT = 3  # of so many replayed samples one is an answer that somebody said was right, where there are such
_OFTEN = 3
_PART = 0.25  # of the corrections to a new answer, at least; what it replaces less often was only misread
_LOOKS = 6  # so often an image's questions are drawn to find some of a corrected form
_SEARCHED = 20  # times as many images are looked through for those that can be asked in a corrected form


class CorrectedMixture:
    """A source of batches for the trainer; epoch n is batch n.

    Args:
        corrections: samples of what is to be learnt; at least one.
        kept: samples of answers that were right.
        replay: what must not be forgotten.
        batch_size: samples in a batch.
        corrected: of these, corrections.
        images: of so many images of the replay's first epoch; they come again with other questions.
        superseded: answers that replay must not teach, by task; see `superseded_answers`.
        kd_weight: 0..1, how much of what is replayed is what the model thought before training.
    """

    def __init__(
        self,
        corrections: Sequence[Sample],
        kept: Sequence[Sample],
        replay: Mixture,
        *,
        batch_size: int,
        corrected: int,
        images: int,
        superseded: frozenset[tuple[Task, str]] = frozenset(),
        kd_weight: float = 0.0,
    ) -> None:
        self.corrections = list(corrections)
        self._replay = replay
        self._batch_size, self._corrected = batch_size, corrected
        self.superseded = superseded
        self._kd_weight = kd_weight
        self._forms = {form_of(turn) for sample in self.corrections for turn in sample.turns}
        self._kept = [_held(sample, sample.turns, kd_weight) for sample in kept]
        self._pool = self._mixed(replay.epoch(0), images) if corrected < batch_size else []
        if corrected < batch_size and not self._pool:
            raise UserError("the mixture has no images to replay; name others, or set share to 1 for no replay")

    @property
    def config(self) -> MixtureConfig:
        """The replay's; its seed is the run's."""
        return self._replay.config

    def images(self) -> Iterator[ImageRef]:
        """Of the corrections, and of the replay."""
        for sample in (*self.corrections, *self._kept):
            yield from sample.images
        for entry, _ in self._pool:
            yield from self._replay.draw(entry, 0).images

    def epoch(self, epoch: int) -> list[tuple[str, int]]:
        """Batch `epoch`: ("correction", n), ("kept", n) and ("replay", n)."""
        replayed = self._batch_size - self._corrected
        count = len(self.corrections)
        first = epoch * self._corrected
        learnt = [
            ("correction", self._shuffled("corrections", n, count)) for n in range(first, first + self._corrected)
        ]
        return learnt + [self._replayed(number) for number in range(epoch * replayed, (epoch + 1) * replayed)]

    def draw(self, entry: tuple[str, int], epoch: int) -> Sample:
        """The sample of an entry; of a replayed one turns that go against no correction.

        Every other replayed image is asked in the form of a correction. Otherwise what is learnt of one thing is said
        of all: where only rings were corrected to "washer", every shape becomes a washer.
        """
        name, number = entry
        if name == "correction":
            return self.corrections[number]
        if name == "kept":
            return self._kept[number]
        showing, place = divmod(number, len(self._pool))
        replayed, in_form = self._pool[place]
        sample = self._replay.draw(replayed, showing)
        turns = self._allowed(sample)
        if in_form:
            drawn = [self._alike(replayed, showing + _LOOKS * look) for look in range(1, _LOOKS + 1)]
            alike = {turn.question: turn for found in drawn for turn in found}
            turns = [*alike.values(), *(turn for turn in turns if turn.question not in alike)][: len(turns)]
        return _held(sample, turns, self._kd_weight)

    def _mixed(self, entries: Sequence[tuple[str, int]], images: int) -> list[tuple[tuple[str, int], bool]]:
        """So many of the replay's images, in turn one as they come, and one that can be asked in a corrected form.

        Of a mixture of many sorts too few could be: of photos nobody asks what shape is red.
        """
        searched = entries[: images * _SEARCHED]
        alike = list(islice((entry for entry in searched if self._alike(entry, 0)), images // 2))
        others = [entry for entry in entries[: images + len(alike)] if entry not in alike][: images - len(alike)]
        parts = zip_longest([(entry, False) for entry in others], [(entry, True) for entry in alike])
        return [entry for pair in parts for entry in pair if entry is not None]

    def _alike(self, entry: tuple[str, int], showing: int) -> list[Turn]:
        """What is asked of an image in the form of a correction."""
        return [turn for turn in self._allowed(self._replay.draw(entry, showing)) if form_of(turn) in self._forms]

    def _allowed(self, sample: Sample) -> list[Turn]:
        return [turn for turn in sample.turns if (turn.task, plain(turn.answer)) not in self.superseded]

    def _replayed(self, number: int) -> tuple[str, int]:
        if self._kept and number % _KEPT == 0:
            return "kept", self._shuffled("kept", number // _KEPT, len(self._kept))
        return "replay", number

    def _shuffled(self, what: str, number: int, count: int) -> int:
        """Entry `number` of endless passes over `count` things, each pass in an order of its own."""
        turn, place = divmod(number, count)
        order = list(range(count))
        random.Random(f"{what} {self.config.seed} {turn}").shuffle(order)
        return order[place]


def _held(sample: Sample, turns: Iterable[Turn], kd_weight: float) -> Sample:
    return replace(sample, turns=tuple(replace(turn, kd_weight=kd_weight) for turn in turns))


def form_of(turn: Turn) -> tuple[Task, str]:
    """What sort of question it is: its task, and how a question in words begins ("what colour", "is there")."""
    if turn.task is not Task.VQA:
        return turn.task, ""
    return turn.task, " ".join(asked(turn.question)[1].split()[:2])


def superseded_answers(
    targets: Sequence[TrainingTarget], known: Collection[tuple[Task, str]]
) -> frozenset[tuple[Task, str]]:
    """Answers that the corrections put out of use: replay that teaches them would take back what is learnt.

    That is an answer that was rejected at least three times, always for the same right answer, was never right, and
    whose successor is no answer to questions of that task otherwise and took its place in a quarter of its corrections
    or more: the few rings that were taken for circles do not put circles out of use. So a new name retires an old one
    ("washer" for "ring"), while of two colours that are mixed up neither is superseded: then replay has to hold the
    balance.

    Args:
        targets: what is learnt.
        known: right answers without the corrections, by task, as `plain` writes them.
    """
    instead: dict[tuple[Task, str], Counter[str]] = defaultdict(Counter)
    places: Counter[tuple[Task, str]] = Counter()
    right = set()
    for target in targets:
        if target.answer is not None:
            turn = target.turns[0]
            right.add((turn.task, plain(turn.answer)))
            if turn.rejected is not None:
                instead[turn.task, plain(turn.rejected)][plain(turn.answer)] += 1
                places[turn.task, plain(turn.answer)] += 1
    return frozenset(
        (task, old)
        for (task, old), answers in instead.items()
        if len(answers) == 1
        and answers.total() >= _OFTEN
        and answers.total() >= _PART * places[task, next(iter(answers))]
        and (task, old) not in right
        and (task, next(iter(answers))) not in known
    )


def taught_answers(replay: Mixture, images: int, showings: int = 3) -> frozenset[tuple[Task, str]]:
    """Right answers that replay teaches, by task, in the first showings of its images."""
    return frozenset(
        (turn.task, plain(turn.answer))
        for entry in replay.epoch(0)[:images]
        for showing in range(showings)
        for turn in replay.draw(entry, showing).turns
    )
