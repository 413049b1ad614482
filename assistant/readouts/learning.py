"""A library from annotated pictures: read-outs, then the box head and all chances on pictures that they did not see."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from fourfold.assistant.grounding import Box
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.readouts.box_head import BoxHead
from fourfold.assistant.readouts.calibration import (
    BoxCalibration,
    PresenceCalibration,
    fit_logistic,
    fit_offsets,
)
from fourfold.assistant.readouts.concept import concept_readout
from fourfold.assistant.readouts.domain import Domain
from fourfold.assistant.readouts.example import Example
from fourfold.assistant.readouts.learner import FOLDS, LEAST_BOXES, ReadoutLearner, fold_of
from fourfold.assistant.readouts.library import (
    COLOUR,
    COLOURED,
    CONCEPT,
    NOUN,
    Readout,
    ReadoutLibrary,
    evidence_on,
    painted_over,
    scores_on,
    together,
)
from fourfold.assistant.readouts.map_rows import MapRows
from fourfold.prompts.errors import UserError

FeaturesOf = Callable[[str], np.ndarray]
"""Features of a picture by its key, (rows, columns, width), normalised."""

ENOUGH_MAPS, FEWEST_MAPS = 2000, 200
"""Maps from which a box head is fitted although there is one already, and where there is none."""
_KEPT = 10  # one picture of so many is held back from the fit of the box head, for its calibration
_SHOWN = (1, 3, 10)  # boxes that a concept is taught by when its presence is calibrated
_SHOWN_NOUNS, _SHOWN_TRIALS = 60, 24


@dataclass
class _Evidence:
    """Of presence, a row a question."""

    kinds: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)

    def add(self, kind: str, name: str, evidence: np.ndarray, label: bool) -> None:
        self.kinds.append(kind)
        self.names.append(name)
        self.rows.append(evidence)
        self.labels.append(label)


def learn_library(
    examples: Sequence[Example],
    features_of: FeaturesOf,
    tower: str,
    *,
    base: ReadoutLibrary | None = None,
    steps: int = 4000,
    provenance: Mapping[str, Any] | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda event: None,
) -> ReadoutLibrary:
    """Learn read-outs of everything that has enough boxes.

    Args:
        examples: annotated pictures; none of those that anything is measured on.
        features_of: is asked for each picture twice, and for some again.
        tower: fingerprint of the tower that the features are of.
        base: gives its box head and its calibrations where there are too few boxes to fit them; None for none.
        steps: of the box head's fit.
        provenance: what to say of the library besides its numbers.
        seed: of what is drawn.

    Raises:
        UserError: nothing has enough boxes, or the box head cannot be fitted and there is no `base`.
    """
    learner: ReadoutLearner | None = None
    for done, example in enumerate(examples, 1):
        features = features_of(example.key)
        learner = learner or ReadoutLearner(features.shape[-1])
        learner.add(features, example)
        if done % 50 == 0 or done == len(examples):
            on_progress(Progress("learning read-outs", done, len(examples)))
    names = learner.names() if learner else []
    if learner is None or not names:
        raise UserError(
            f"no noun has {LEAST_BOXES} boxes in the {len(examples)} pictures; a read-out needs so many at least"
        )
    study = _Study(learner, examples, features_of, seed)
    study.run(on_progress)
    fitted = len(study.maps) >= (ENOUGH_MAPS if base else FEWEST_MAPS)
    if not fitted and base is None:
        raise UserError(f"{len(study.maps)} boxed nouns are too few to learn boxes from; {FEWEST_MAPS} are the least")
    kept = [readout for kind in (NOUN, COLOUR) for readout in _all_readouts(learner, kind).values() if readout]
    if fitted:
        from fourfold.assistant.readouts.box_training import (
            fit_box_head,  # torch, which who only looks need not wait for
        )

        head = fit_box_head(study.maps, steps=steps, seed=seed, on_progress=on_progress)
        box_chance = calibrate_boxes(head, study.maps)
    else:
        assert base is not None
        head, box_chance = base.head, base.box_chance
    if not study.knows_presence and base is None:
        raise UserError("the pictures show the same nouns, so nothing tells what is absent: annotate other ones, too")
    presence, offsets = study.presence(base)
    return ReadoutLibrary(
        tower=tower,
        readouts=tuple(replace(r, offset=offsets.get(r.name, 0.0)) if r.kind == NOUN else r for r in kept),
        domains=dict(learner.domains),
        head=head,
        presence_of=presence,
        box_chance=box_chance,
        synonyms=learner.synonyms(name for _, name in names),
        provenance={
            **(provenance or {}),
            "pictures": dict(Counter(example.domain for example in examples)),
            "nouns": len(names),
            "boxes": sum(readout.boxes for readout in kept if readout.kind == NOUN),
        },
    )


@dataclass(frozen=True)
class _Asked:
    """A read-out that is tried on a picture, and the boxes that it should find; none where the thing is absent."""

    kind: str
    name: str
    readout: Readout | None
    boxes: Sequence[Box] = ()


def _all_readouts(
    learner: ReadoutLearner, kind: str, without: int | None = None
) -> dict[tuple[str, str], Readout | None]:
    """All read-outs of a kind by domain and name, without what a fold taught."""
    by_domain: dict[str, list[str]] = defaultdict(list)
    for domain, name in learner.names(kind):
        by_domain[domain].append(name)
    return {
        (domain, name): readout
        for domain, names in by_domain.items()
        for name, readout in zip(names, learner.readouts(kind, domain, names, without), strict=True)
    }


class _Study:
    """Maps and evidence of read-outs on the pictures of the fold that they have not seen."""

    def __init__(
        self, learner: ReadoutLearner, examples: Sequence[Example], features_of: FeaturesOf, seed: int
    ) -> None:
        self.maps, self.evidence = MapRows(), _Evidence()
        self._examples, self._features_of = examples, features_of
        self._domains: Mapping[str, Domain] = learner.domains
        self._domain_of = {name: domain for domain, name in learner.names()}
        self._drawn = random.Random(seed)
        self._count: Counter[str] = Counter()
        self._beside: dict[str, Counter[str]] = defaultdict(Counter)
        for example in examples:
            nouns = [noun for noun in example.boxes if noun in self._domain_of]
            self._count.update(nouns)
            for noun in nouns:
                self._beside[noun].update(other for other in nouns if other != noun)
        self._popular: dict[str, list[str]] = defaultdict(list)  # by domain, the most frequent first
        for noun, _ in self._count.most_common():
            self._popular[self._domain_of[noun]].append(noun)
        self._colours: dict[str, list[str]] = defaultdict(list)
        for domain, colour in learner.names(COLOUR):
            self._colours[domain].append(colour)
        self._nouns = [_all_readouts(learner, NOUN, fold) for fold in range(FOLDS)]
        self._of_colours = [_all_readouts(learner, COLOUR, fold) for fold in range(FOLDS)]
        self._coloured = cache(self._together)

    def run(self, on_progress: OnProgress) -> None:
        for done, example in enumerate(self._examples, 1):
            features, fold = self._features_of(example.key), fold_of(example.key)
            keep = self._drawn.random() < 1 / _KEPT
            asked: list[_Asked] = []
            for noun, boxes in example.boxes.items():
                if self._domain_of.get(noun) == example.domain:
                    asked.append(_Asked(NOUN, noun, self._noun(noun, fold), boxes))
                    if absent := self._absent(example, noun):
                        asked.append(_Asked(NOUN, absent, self._noun(absent, fold)))
            for (noun, colour), boxes in example.coloured.items():
                asked.append(_Asked(COLOURED, noun, self._coloured(noun, colour, fold), boxes))
                for other in self._other_kinds(example, noun, colour):
                    asked.append(_Asked(COLOURED, other[0], self._coloured(*other, fold)))
            self._take(features, [one for one in asked if one.readout], example, keep)
            if done % 50 == 0 or done == len(self._examples):
                on_progress(Progress("trying read-outs on other pictures", done, len(self._examples)))
        self._show_once(on_progress)

    @property
    def knows_presence(self) -> bool:
        """Whether there was a yes and a no of many nouns."""
        return min(Counter(self.evidence.labels).values(), default=0) >= 20 and len(set(self.evidence.labels)) == 2

    def presence(self, base: ReadoutLibrary | None) -> tuple[PresenceCalibration, dict[str, float]]:
        """Weights by kind, and offsets by noun. A kind with too few rows has those of `base`, or of nouns."""
        kinds, rows = np.array(self.evidence.kinds), np.array(self.evidence.rows)
        labels, names = np.array(self.evidence.labels, float), np.array(self.evidence.names)
        if not self.knows_presence:
            assert base is not None
            return base.presence_of, {}
        weights: dict[str, np.ndarray] = {}
        offsets: dict[str, float] = {}
        for kind in (NOUN, COLOURED, CONCEPT):
            used = kinds == kind
            if min(labels[used].sum(), (1 - labels[used]).sum()) < 20:
                weights[kind] = base.presence_of.weights[kind] if base else weights[NOUN]
                continue
            # Each noun has as much weight of yes as of no, so that the noun alone tells nothing.
            known, group = np.unique(names[used], return_inverse=True)
            yes = np.bincount(group, labels[used])
            no = np.bincount(group) - yes
            both = (yes > 0) & (no > 0)
            each = np.where(labels[used] == 1, 0.5 / np.maximum(yes, 1)[group], 0.5 / np.maximum(no, 1)[group])
            each *= (yes + no)[group] * both[group]
            weights[kind] = fit_logistic(rows[used], labels[used], weight=each)
            if kind == NOUN:
                logits = rows[used] @ weights[kind][:-1] + weights[kind][-1]
                found = fit_offsets(logits, labels[used], group, len(known), weight=each)
                offsets = dict(zip(known.tolist(), found.tolist(), strict=True))
        return PresenceCalibration(weights), offsets

    def _noun(self, noun: str, fold: int) -> Readout | None:
        return self._nouns[fold].get((self._domain_of[noun], noun))

    def _together(self, noun: str, colour: str, fold: int) -> Readout | None:
        if noun not in self._domain_of:
            return None
        domain = self._domain_of[noun]
        one, other = self._noun(noun, fold), self._of_colours[fold].get((domain, colour))
        return together(one, [other], self._domains[domain]) if one and other else None

    def _take(self, features: np.ndarray, asked: Sequence["_Asked"], example: Example, keep: bool) -> None:
        """Maps of read-outs with their boxes, and evidence; where there are no boxes the thing is absent."""
        readouts = [one.readout for one in asked if one.readout]
        if not readouts:
            return
        scores = scores_on(features, readouts)
        evidence = evidence_on(features, readouts, scores)
        likeness = self._domains[example.domain].likeness(features, scores)
        for row, (one, readout) in enumerate(zip(asked, readouts, strict=True)):
            self.evidence.add(one.kind, one.name, evidence[row], bool(one.boxes))
            if one.boxes and not example.parts:
                self.maps.add(np.stack([scores[row], likeness[row]]), readout.priors, one.boxes, keep)

    def _absent(self, example: Example, noun: str) -> str | None:
        """A noun that is not in the picture: in turn one like others, a frequent one, and one that often goes with
        `noun`."""
        popular = self._popular[example.domain]
        for _ in range(8):
            sort = self._drawn.randrange(3)
            if sort == 0:
                other = self._drawn.choice(popular)
            elif sort == 1:
                other = self._drawn.choice(popular[: max(10, len(popular) // 8)])
            else:
                beside = self._beside[noun]
                if not beside:
                    continue
                other = self._drawn.choices(list(beside), weights=list(beside.values()))[0]
            if self._domain_of[other] == example.domain and example.lacks(other):
                return other
        return None

    def _other_kinds(self, example: Example, noun: str, colour: str) -> list[tuple[str, str]]:
        """A kind that is not there and shares its noun or its colour with one that is; exhaustive pictures only."""
        if not example.vocabulary or not example.colours:
            return []
        near = [(noun, other) for other in self._colours[example.domain]] + [
            (other, colour) for other in sorted(example.vocabulary)
        ]
        absent = [kind for kind in near if kind not in example.coloured and kind[0] in self._domain_of]
        return [self._drawn.choice(absent)] if absent else []

    def _show_once(self, on_progress: OnProgress) -> None:
        """Evidence of things that were taught by a few boxes."""
        first = next(iter(self._domains.values()))
        by_noun: dict[str, list[Example]] = defaultdict(list)
        for example in self._examples:
            if example.domain == first.name:
                for noun in example.boxes:
                    by_noun[noun].append(example)
        nouns = [noun for noun in self._popular[first.name] if len(by_noun[noun]) >= 2 * max(_SHOWN)]
        nouns = self._drawn.sample(nouns, min(len(nouns), _SHOWN_NOUNS))
        for done, noun in enumerate(nouns, 1):
            shows = by_noun[noun]
            lacks = [e for e in self._drawn.sample(self._examples, min(len(self._examples), 200)) if e.lacks(noun)]
            lacks = [example for example in lacks if example.domain == first.name]
            for count in _SHOWN:
                mixed = self._drawn.sample(shows, len(shows))
                taught, tried = mixed[:count], mixed[count:][: _SHOWN_TRIALS // 2]
                pictures = [(self._features_of(e.key), list(e.boxes[noun][:1]), True) for e in taught]
                readout = concept_readout(noun, pictures, first)
                for example in (*tried, *lacks[: len(tried)]):
                    features = self._features_of(example.key)
                    [evidence] = evidence_on(features, [readout], scores_on(features, [readout]))
                    self.evidence.add(CONCEPT, noun, evidence, noun in example.boxes)
            on_progress(Progress("showing things once", done, len(nouns)))


def calibrate_boxes(head: BoxHead, rows: MapRows) -> BoxCalibration:
    """Fitted on the maps that were held back: how often a box of a stated chance fits, and from which chance on to
    count a further one where several are wanted (the best F1)."""
    said: list[tuple[float, bool]] = []
    fits: list[float] = []
    groups: list[tuple[list[tuple[float, float]], int]] = []
    for index in np.flatnonzero(rows.keep)[:3000]:
        left = rows.maps[index].astype(np.float32)
        priors = np.array(rows.priors[index])
        true = [Box(*map(float, sides)) for sides in rows.boxes[index] if sides[0] >= 0]
        unfound = list(true)
        found: list[tuple[float, float]] = []
        for number in range(min(len(true) + 1, 5)):
            one = head.box(left, priors)
            box = Box(*one.sides)
            match = max(unfound, key=box.iou, default=None)
            fit = match is not None and box.iou(match) >= 0.5
            if fit and match is not None:
                unfound.remove(match)
            said.append((one.chance, number > 0))
            fits.append(float(fit))
            found.append((one.chance, float(fit)))
            left = painted_over(left, box)
        groups.append((found, len(true)))
    if len(fits) < 40 or len(set(fits)) < 2:
        return BoxCalibration()
    chances = np.clip([chance for chance, _ in said], 1e-4, 1 - 1e-4)
    columns = np.column_stack([np.log(chances / (1 - chances)), [later for _, later in said]])
    slope, later, bias = map(float, fit_logistic(columns, np.array(fits), penalty=1e-3))
    calibrated = BoxCalibration(slope, bias, later)

    def f1(least: float) -> float:
        kept = [
            [fit for number, (chance, fit) in enumerate(found) if not number or calibrated(chance, later=True) >= least]
            for found, _ in groups
        ]
        return 2 * sum(map(sum, kept)) / (sum(map(len, kept)) + sum(number for _, number in groups))

    return replace(calibrated, group=max((round(0.05 * step, 2) for step in range(2, 16)), key=f1))
