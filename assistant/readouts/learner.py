"""Learning read-outs: means of what boxes hold and one covariance of all patches, picture by picture."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts.domain import Domain, Moments
from fourfold.assistant.readouts.example import Example
from fourfold.assistant.readouts.features import patches_of
from fourfold.assistant.readouts.library import COLOUR, NOUN, Readout

FOLDS = 4
"""Parts of the pictures; what is measured on one of them is measured with read-outs of the others."""
LEAST_BOXES = 5
"""Of a noun that gets a read-out."""
_LEAST_ELSEWHERE = 3  # boxes in the other folds of a noun that is measured in one
_SPREAD = 0.7  # standard deviation of the logarithm of a noun's areas where nothing is known of it


def fold_of(key: str) -> int:
    """The part that a picture belongs to, by its key alone."""
    return hashlib.md5(key.encode(), usedforsecurity=False).digest()[0] % FOLDS


@dataclass
class _Sums:
    """Of one name, by fold."""

    width: int
    patches: np.ndarray = field(init=False)  # (FOLDS, width), each box's mean patch
    pictures: np.ndarray = field(init=False)  # (FOLDS, width), the mean patch of each picture that has one
    boxes: np.ndarray = field(init=False)  # (FOLDS,)
    shown: np.ndarray = field(init=False)  # (FOLDS,) pictures
    areas: np.ndarray = field(init=False)  # (FOLDS, 2) sums of log area and of its square

    def __post_init__(self) -> None:
        self.patches, self.pictures = np.zeros((FOLDS, self.width)), np.zeros((FOLDS, self.width))
        self.boxes, self.shown, self.areas = np.zeros(FOLDS), np.zeros(FOLDS), np.zeros((FOLDS, 2))

    def add(self, fold: int, features: np.ndarray, boxes: Sequence[Box]) -> None:
        rows, columns, width = features.shape
        weights = sum(patches_of(box, rows, columns) for box in boxes)
        self.patches[fold] += np.ravel(weights) @ features.reshape(-1, width)
        self.pictures[fold] += features.mean((0, 1))
        self.boxes[fold] += len(boxes)
        self.shown[fold] += 1
        logs = [math.log(box.area) for box in boxes]
        self.areas[fold] += sum(logs), sum(log * log for log in logs)


class ReadoutLearner:
    """Counts annotated pictures one by one and gives read-outs of what it has seen so far.

    Args:
        width: of the features.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._moments: dict[str, Moments] = {}
        self._sums: dict[tuple[str, str, str], _Sums] = {}  # by kind, domain and name
        self._together: dict[str, Counter[str]] = defaultdict(Counter)
        self._cached: dict[str, Domain] = {}

    def add(self, features: np.ndarray, example: Example) -> None:
        """Count a picture.

        Args:
            features: (rows, columns, width), normalised.
            example: what is in it.
        """
        self._cached.clear()
        self._moments.setdefault(example.domain, Moments(self.width)).add(features)
        fold = fold_of(example.key)
        for kind, named in ((NOUN, example.boxes), (COLOUR, example.colours)):
            for name, boxes in named.items():
                sums = self._sums.setdefault((kind, example.domain, name), _Sums(self.width))
                sums.add(fold, features, boxes)
        for thing in example.things:
            for noun in thing.nouns:
                self._together[noun].update(other for other in thing.nouns if other != noun)

    @property
    def domains(self) -> Mapping[str, Domain]:
        """Of all pictures so far, the sort with the most pictures first."""
        if not self._cached:
            ordered = sorted(self._moments.items(), key=lambda item: -(item[1].pictures + len(item[1]._waiting)))
            self._cached = {name: moments.domain(name) for name, moments in ordered}
        return self._cached

    def names(self, kind: str = NOUN, least: int = LEAST_BOXES) -> list[tuple[str, str]]:
        """(domain, name) of what has at least so many boxes; a name of two domains is that of the more boxes."""
        best: dict[str, tuple[float, str]] = {}
        for (of, domain, name), sums in self._sums.items():
            boxes = sums.boxes.sum()
            if of == kind and boxes >= least:
                if kind == COLOUR:
                    best[f"{domain} {name}"] = (boxes, domain)
                elif name not in best or boxes > best[name][0]:
                    best[name] = (boxes, domain)
        return sorted((domain, key.rpartition(" ")[2] if kind == COLOUR else key) for key, (_, domain) in best.items())

    def readout(self, kind: str, domain: str, name: str, without: int | None = None) -> Readout | None:
        """The read-out of a name.

        Args:
            kind, domain, name: see `Readout`.
            without: a fold that it must not have seen; None for all pictures.

        Returns:
            None where too few boxes are left.
        """
        sums = self._sums.get((kind, domain, name))
        if sums is None:
            return None
        kept = [fold for fold in range(FOLDS) if fold != without]
        boxes, shown = sums.boxes[kept].sum(), sums.shown[kept].sum()
        if boxes < (LEAST_BOXES if without is None else _LEAST_ELSEWHERE):
            return None
        of = self.domains[domain]
        return make_readout(
            name,
            kind,
            of,
            difference=sums.patches[kept].sum(0) / boxes - of.mean,
            picture_difference=sums.pictures[kept].sum(0) / shown - of.picture_mean,
            areas=sums.areas[kept].sum(0),
            boxes=int(boxes),
        )

    def synonyms(self, known: Iterable[str]) -> dict[str, str]:
        """Nouns without a read-out by the known noun that most often names the same things."""
        known, found = set(known), {}
        for noun, others in self._together.items():
            if noun not in known:
                best = [(count, other) for other, count in others.items() if other in known]
                if best and max(best)[0] >= 2:
                    found[noun] = max(best)[1]
        return found


def make_readout(
    name: str,
    kind: str,
    domain: Domain,
    *,
    difference: np.ndarray,
    picture_difference: np.ndarray,
    areas: np.ndarray,
    boxes: int,
) -> Readout:
    """A read-out of differences of means.

    Args:
        name, kind, domain: see `Readout`.
        difference: (width,) from the domain's mean patch to that of the boxes.
        picture_difference: (width,) from the domain's mean picture to that of the pictures that show it.
        areas: sums of the logarithms of the boxes' areas and of their squares.
        boxes: how many.
    """
    raw = domain.discriminant(difference.astype(np.float32))
    weights, bias = domain.scaled(raw)
    picture_raw = domain.picture_inverse @ picture_difference.astype(np.float32)
    picture_scale = math.sqrt(max(float(picture_raw @ domain.picture_covariance @ picture_raw), 1e-12))
    picture_weights = (picture_raw / picture_scale).astype(np.float32)
    middle = float(areas[0]) / boxes
    # A few boxes say little of the spread: two of a usual one are counted in.
    spread = math.sqrt((max(float(areas[1]) - boxes * middle**2, 0) + 2 * _SPREAD**2) / (boxes + 2))
    return Readout(
        name=name,
        kind=kind,
        domain=domain.name,
        weights=weights,
        bias=bias,
        scale=float(np.linalg.norm(raw) / max(np.linalg.norm(weights), 1e-12)),
        picture_weights=picture_weights,
        picture_bias=-float(picture_weights @ domain.picture_mean),
        priors=normal_priors(middle, spread, boxes),
        boxes=boxes,
    )


def normal_priors(log_area: float, spread: float, boxes: int) -> tuple[float, float, float]:
    """Priors as the head takes them, each about -1..1."""
    return (log_area + 2.5) / 1.3, (spread - 0.9) / 0.3, (math.log(boxes) - 3.5) / 1.8
