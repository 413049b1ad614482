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

    def readouts(
        self, kind: str, domain: str, names: Sequence[str], without: int | None = None
    ) -> list[Readout | None]:
        """The read-outs of names, None for those with too few boxes.

        Args:
            kind, domain: of all of them, see `Readout`.
            names: of what they read.
            without: a fold that they must not have seen; None for all pictures.
        """
        kept = [fold for fold in range(FOLDS) if fold != without]
        least = LEAST_BOXES if without is None else _LEAST_ELSEWHERE
        sums = [self._sums.get((kind, domain, name)) for name in names]
        taught = [
            (name, Taught.of(one, kept))
            for name, one in zip(names, sums, strict=True)
            if one is not None and one.boxes[kept].sum() >= least
        ]
        found = {readout.name: readout for readout in make_readouts(kind, self.domains[domain], taught)}
        return [found.get(name) for name in names]

    def synonyms(self, known: Iterable[str]) -> dict[str, str]:
        """Nouns without a read-out by the known noun that most often names the same things."""
        known, found = set(known), {}
        for noun, others in self._together.items():
            if noun not in known:
                best = [(count, other) for other, count in others.items() if other in known]
                if best and max(best)[0] >= 2:
                    found[noun] = max(best)[1]
        return found


@dataclass(frozen=True)
class Taught:
    """What taught a read-out.

    Attributes:
        patch: (width,) mean patch of its boxes.
        picture: (width,) mean of the pictures that show it.
        areas: sums of the logarithms of the boxes' areas and of their squares.
        boxes: how many.
    """

    patch: np.ndarray
    picture: np.ndarray
    areas: np.ndarray
    boxes: int

    @classmethod
    def of(cls, sums: _Sums, folds: Sequence[int]) -> "Taught":
        """The sums of some folds."""
        boxes, shown = sums.boxes[folds].sum(), sums.shown[folds].sum()
        return cls(
            sums.patches[folds].sum(0) / boxes,
            sums.pictures[folds].sum(0) / shown,
            sums.areas[folds].sum(0),
            int(boxes),
        )


def make_readouts(kind: str, domain: Domain, taught: Sequence[tuple[str, Taught]]) -> list[Readout]:
    """Read-outs of one kind by what taught each."""
    if not taught:
        return []
    patches = domain.patches.discriminants(np.stack([one.patch for _, one in taught]) - domain.patches.mean)
    pictures = domain.pictures.discriminants(np.stack([one.picture for _, one in taught]) - domain.pictures.mean)
    found = []
    for row, (name, one) in enumerate(taught):
        middle = float(one.areas[0]) / one.boxes
        # A few boxes say little of the spread: two of a usual one are counted in.
        squares = max(float(one.areas[1]) - one.boxes * middle**2, 0)
        spread = math.sqrt((squares + 2 * _SPREAD**2) / (one.boxes + 2))
        found.append(
            Readout(
                name=name,
                kind=kind,
                domain=domain.name,
                weights=patches.weights[row],
                bias=float(patches.biases[row]),
                scale=float(patches.scales[row]),
                picture_weights=pictures.weights[row],
                picture_bias=float(pictures.biases[row]),
                # About -1..1 each, as the box head takes them.
                priors=((middle + 2.5) / 1.3, (spread - 0.9) / 0.3, (math.log(one.boxes) - 3.5) / 1.8),
                boxes=one.boxes,
            )
        )
    return found
