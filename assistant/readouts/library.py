"""A library of read-outs: what the tower's patches say of nouns, colours and things that were shown once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from fourfold.assistant.english import singular
from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts.box_head import BoxHead
from fourfold.assistant.readouts.calibration import BoxCalibration, PresenceCalibration, evidence_of
from fourfold.assistant.readouts.choosing import choose
from fourfold.assistant.readouts.domain import Domain
from fourfold.assistant.readouts.features import coverage
from fourfold.assistant.readouts.paint import colour_shares
from fourfold.assistant.readouts.phrase import Target, read_phrase, same_noun
from fourfold.prompts.errors import UserError

NOUN, COLOUR, COLOURED, CONCEPT = "noun", "colour", "coloured noun", "concept"
READ_OUT, SHOWN_ONCE = "read-out", "shown once"
MOST_BOXES = 8
"""Of one phrase."""
_DRAWN_TO_THINGS = 0.7
"""What the read-out of anything counts beside that of a concept: measured in docs/eyes.md."""
# What the pixels' own colours count beside the read-outs', and the share that a colour has anyway: docs/eyes.md.
_PIXELS_COUNT, _LEAST_SHARE = 0.3, 0.03
_CANDIDATE = 0.15  # chance from which a box is one of those that "on the left" chooses from


@dataclass(frozen=True)
class Readout:
    """One linear read-out.

    Attributes:
        name: a singular noun, a colour, or what a person called a thing.
        kind: "noun", "colour" or "concept".
        domain: the sort of pictures it was learnt from.
        weights: (width,); `features @ weights + bias` is in standard deviations over the domain's patches.
        bias: see there.
        scale: by which the weights were divided.
        picture_weights, picture_bias: the same for the mean of a picture's patches.
        priors: of its boxes, see `box_head.PRIORS`.
        boxes: how many taught it.
        offset: of its presence, in log-odds.
    """

    name: str
    kind: str
    domain: str
    weights: np.ndarray
    bias: float
    scale: float
    picture_weights: np.ndarray
    picture_bias: float
    priors: tuple[float, float, float]
    boxes: int
    offset: float = 0.0


@dataclass(frozen=True)
class Finding:
    """Where a phrase's thing is.

    Attributes:
        phrase: as asked.
        noun: the read-out's name that stood for it.
        boxes: the surest first.
        confidence: of each box, the calibrated chance that a true one overlaps it by IoU 0.5 or more.
        presence: calibrated chance that the noun is in the picture, where a yes is as likely as a no beforehand.
        source: "read-out" or "shown once".
        map: (rows, columns) scores in standard deviations.
        point: x, y in 0..1, the likeliest place of the thing.
    """

    phrase: str
    noun: str
    boxes: tuple[Box, ...]
    confidence: tuple[float, ...]
    presence: float
    source: str
    map: np.ndarray
    point: tuple[float, float]


@dataclass(frozen=True)
class Maps:
    """A read-out on a picture: its scores, the likeness to the best patches, (rows, columns) each, and the evidence
    of presence that they give."""

    scores: np.ndarray
    likeness: np.ndarray
    evidence: np.ndarray


@dataclass(frozen=True)
class ReadoutLibrary:
    """Read-outs of one tower.

    Attributes:
        tower: fingerprint of the image tower that they read, see `checkpoints.fingerprint.tower_fingerprint`.
        readouts: nouns, colours and concepts.
        domains: by name; the first is that of concepts.
        head: makes boxes of maps.
        presence_of, box_chance: calibrations.
        synonyms: nouns by the library's noun that stands for them.
        provenance: what it was learnt from, and held-out figures.
    """

    tower: str
    readouts: tuple[Readout, ...]
    domains: Mapping[str, Domain]
    head: BoxHead
    presence_of: PresenceCalibration
    box_chance: BoxCalibration
    synonyms: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Of the features."""
        return len(next(iter(self.domains.values())).patches.mean)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Nouns and concepts."""
        return tuple(readout.name for readout in self.readouts if readout.kind != COLOUR)

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """Names of what was shown."""
        return tuple(readout.name for readout in self.readouts if readout.kind == CONCEPT)

    @cached_property
    def _things(self) -> dict[str, Readout]:
        """Read-outs by name in small letters; a concept goes before the noun of its name."""
        things = {r.name.lower(): r for r in self.readouts if r.kind == NOUN}
        return things | {r.name.lower(): r for r in self.readouts if r.kind == CONCEPT}

    @cached_property
    def _colours(self) -> dict[tuple[str, str], Readout]:
        return {(r.domain, r.name): r for r in self.readouts if r.kind == COLOUR}

    def noun_of(self, word: str) -> str | None:
        """The library's noun that a word stands for: itself, a synonym, or a wider word for people."""

        def is_noun(name: str) -> bool:
            return name in self._things

        word = word.lower()
        for form in dict.fromkeys((word, singular(word))):
            if is_noun(form):
                return form
            if form in self.synonyms:
                return self.synonyms[form]
            if found := same_noun(form, is_noun):
                return found
        return None

    def read(self, phrase: str) -> Target | None:
        """What a phrase points at, by what the library knows; None where it knows no noun of it."""
        return read_phrase(phrase, self.noun_of, self.concepts)

    def score_map(self, features: np.ndarray, name: str) -> np.ndarray:
        """Scores of a picture's patches, in standard deviations over the patches of many pictures.

        Args:
            features: (rows, columns, width), normalised.
            name: of the library, or a phrase with one of its nouns.

        Returns:
            (rows, columns), float32.

        Raises:
            UserError: the library knows no noun of the phrase, or the features are another tower's.
        """
        target = self.read(name)
        if target is None:
            raise UserError(f"there is no read-out of {name[:80]!r}")
        readout = self._readout(target)
        return scores_on(self._checked(features), [readout])[0]

    def presence(self, features: np.ndarray, name: str) -> float:
        """Calibrated chance, 0..1, that something is in the picture, where yes and no are equally likely beforehand.

        Raises:
            UserError: as `score_map`.
        """
        target = self.read(name)
        if target is None:
            raise UserError(f"there is no read-out of {name[:80]!r}")
        readout = self._readout(target)
        return self._presences(self._checked(features), [readout])[0]

    def find(self, features: np.ndarray, phrase: str, *, several: bool = False) -> Finding | None:
        """Where the thing of a phrase is.

        Args:
            features: (rows, columns, width), normalised.
            phrase: "the red ball", "man on the left", "dog next to the ball", a concept's name.
            several: every one of them, not the one that fits best.

        Returns:
            None where the library knows no noun of the phrase. There is always a box; how much to believe it says
            its confidence, and whether the thing is there at all says the presence.

        Raises:
            UserError: the features are another tower's.
        """
        target = self.read(phrase)
        if target is None:
            return None
        features = self._checked(features)
        readout = self._readout(target)
        maps = self._maps(features, readout)
        seen = self._maps(features, self._helped(readout)) if readout.kind == CONCEPT else maps
        candidates, point = self._boxes(seen, readout, target, several)
        if target.side or target.other is not None:
            around = None
            if target.other is not None and not several:
                beside = self._readout(target.other)
                around = self._boxes(self._maps(features, beside), beside, target.other, False)[0][0][0]
            candidates = choose(candidates, target, around, several)
            if not several:
                box = candidates[0][0]
                if not (box.x1 <= point[0] <= box.x2 and box.y1 <= point[1] <= box.y2):
                    point = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
        if several:
            sure = [pair for pair in candidates if pair[1] >= self.box_chance.group]
            candidates = sure or candidates[:1]
        else:
            candidates = candidates[:1]
        return Finding(
            phrase=phrase,
            noun=readout.name,
            boxes=tuple(box for box, _ in candidates),
            confidence=tuple(chance for _, chance in candidates),
            presence=self.presence_of(readout.kind, maps.evidence, readout.offset),
            source=SHOWN_ONCE if readout.kind == CONCEPT else READ_OUT,
            map=maps.scores,
            point=point,
        )

    def colours(self, features: np.ndarray, phrase: str, image: Image.Image | None = None) -> list[tuple[str, float]]:
        """The colours that a phrase's thing may have, with their chances (together 1), the likeliest first.

        Each colour's scores are averaged over the patches of the thing's box, weighted by how much they look like the
        thing; a softmax makes chances of them. The names of the pixels there are a second witness, which counts less.

        Args:
            features: (rows, columns, width), normalised.
            phrase: as for `find`.
            image: the picture, for its pixels.

        Returns:
            Nothing where the library knows no noun of the phrase, or was taught no colours.

        Raises:
            UserError: the features are another tower's.
        """
        finding = self.find(features, phrase)
        target = self.read(phrase)
        if finding is None or target is None:
            return []
        domain = self._things[target.noun.lower()].domain
        colours = [colour for (where, _), colour in self._colours.items() if where == domain]
        if not colours:
            return []
        covered = coverage(finding.boxes[0], *features.shape[:2])
        weights = np.exp(finding.map) * (covered >= min(0.5, float(covered.max())))
        weights /= weights.sum()
        scores = scores_on(features, colours).reshape(len(colours), -1) @ weights.ravel()
        if image is not None:
            shares = colour_shares(image, weights)
            scores += _PIXELS_COUNT * np.log([shares.get(colour.name, 0.0) + _LEAST_SHARE for colour in colours])
        chances = np.exp(scores - scores.max())
        chances /= chances.sum()
        found = zip((colour.name for colour in colours), map(float, chances), strict=True)
        return sorted(found, key=lambda pair: -pair[1])

    def describe(self, features: np.ndarray, limit: int = 10) -> list[tuple[str, float]]:
        """The nouns and concepts that are likeliest in the picture, with their presence, the likeliest first."""
        features = self._checked(features)
        things = [readout for readout in self.readouts if readout.kind != COLOUR]
        found = zip((thing.name for thing in things), self._presences(features, things), strict=True)
        return sorted(found, key=lambda pair: -pair[1])[:limit]

    def with_concepts(self, concepts: Sequence[Readout]) -> "ReadoutLibrary":
        """A library that knows these things too; this one stays as it is."""
        return replace(self, readouts=(*self.readouts, *concepts))

    def _checked(self, features: np.ndarray) -> np.ndarray:
        if features.ndim != 3 or features.shape[-1] != self.width:
            raise UserError(
                f"the read-outs read features of width {self.width}, not of shape {tuple(features.shape)}; they were "
                "learnt from another image tower"
            )
        return features

    def _readout(self, target: Target) -> Readout:
        """The noun's read-out, together with those of its colours: scores add up as likelihoods multiply."""
        noun = self._things[target.noun.lower()]
        colours = [c for name in target.colours if (c := self._colours.get((noun.domain, name)))]
        return together(noun, colours, self.domains[noun.domain]) if colours else noun

    @cached_property
    def _anything(self) -> dict[str, Readout]:
        """Of each domain the read-out of whatever people name: the mean of its nouns'."""
        found = {}
        for domain in self.domains.values():
            nouns = [readout for readout in self.readouts if readout.kind == NOUN and readout.domain == domain.name]
            if nouns:
                mean = np.mean([noun.scale * noun.weights for noun in nouns], axis=0)
                one = domain.patches.unit(mean[None])
                weights, bias = one.weights[0], float(one.biases[0])
                found[domain.name] = replace(nouns[0], name="anything", weights=weights, bias=bias)
        return found

    def _helped(self, concept: Readout) -> Readout:
        """A concept's read-out that is drawn to things rather than to what surrounds them: one box tells little of
        which is which. For places alone; whether it is there at all, that says nothing of."""
        anything = self._anything.get(concept.domain)
        if anything is None:
            return concept
        drawn = replace(anything, weights=_DRAWN_TO_THINGS * anything.weights)
        return together(concept, [drawn], self.domains[concept.domain])

    def _presences(self, features: np.ndarray, readouts: Sequence[Readout]) -> list[float]:
        evidence = evidence_on(features, readouts, scores_on(features, readouts))
        return [self.presence_of(r.kind, row, r.offset) for r, row in zip(readouts, evidence, strict=True)]

    def _maps(self, features: np.ndarray, readout: Readout) -> Maps:
        scores = scores_on(features, [readout])
        [likeness] = self.domains[readout.domain].likeness(features, scores)
        [evidence] = evidence_on(features, [readout], scores)
        return Maps(scores[0], likeness, evidence)

    def _boxes(
        self, maps: Maps, readout: Readout, target: Target, several: bool
    ) -> tuple[list[tuple[Box, float]], tuple[float, float]]:
        """Boxes with their confidence, the surest first, and the likeliest place of the thing.

        One box is read off after the other, each off maps in which those before it are painted over.
        """
        left = np.stack([maps.scores, maps.likeness])
        priors = np.array(readout.priors)
        found: list[tuple[Box, float]] = []
        point = (0.5, 0.5)
        more = several or target.side is not None or target.other is not None
        for number in range(MOST_BOXES if more else 1):
            one = self.head.box(left, priors)
            box = Box(*one.sides)
            # "The dog on the left" is said where there are two.
            chance = self.box_chance(one.chance, later=number > 0 and several)
            if number == 0:
                point = one.point
            elif chance < _CANDIDATE or any(box.iou(other) > 0.6 for other, _ in found):
                break
            found.append((box, chance))
            left = painted_over(left, box)
        return sorted(found, key=lambda pair: -pair[1]), point


def scores_on(features: np.ndarray, readouts: Sequence[Readout]) -> np.ndarray:
    """(n, rows, columns) scores of read-outs on a picture."""
    rows, columns, width = features.shape
    weights = np.stack([readout.weights for readout in readouts])
    biases = np.array([readout.bias for readout in readouts], np.float32)
    return (weights @ features.reshape(-1, width).T + biases[:, None]).reshape(-1, rows, columns)


def evidence_on(features: np.ndarray, readouts: Sequence[Readout], scores: np.ndarray) -> np.ndarray:
    """(n, EVIDENCE) of presence that read-outs give on a picture."""
    weights = np.stack([readout.picture_weights for readout in readouts])
    pictures = weights @ features.mean((0, 1)) + [readout.picture_bias for readout in readouts]
    return evidence_of(scores, pictures, np.array([readout.boxes for readout in readouts]))


def together(noun: Readout, colours: Sequence[Readout], domain: Domain) -> Readout:
    """A noun's read-out that also looks for colours."""
    both = noun.weights + np.sum([colour.weights for colour in colours], axis=0)
    found = domain.patches.unit(both[None])
    kind = COLOURED if noun.kind == NOUN else noun.kind
    return replace(noun, kind=kind, weights=found.weights[0], bias=float(found.biases[0]))


def painted_over(maps: np.ndarray, box: Box) -> np.ndarray:
    """Maps (2, rows, columns) in which what a box covers scores as low as anything does."""
    covered = coverage(box, *maps.shape[1:])
    inside = covered >= min(0.5, float(covered.max()))
    return np.where(inside, maps.min(axis=(1, 2), keepdims=True), maps)
