"""A thing that somebody showed: a read-out from one boxed picture on."""

import math
from collections.abc import Sequence

import numpy as np

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts.domain import Domain
from fourfold.assistant.readouts.features import distinct, patches_of
from fourfold.assistant.readouts.learner import Taught, make_readouts
from fourfold.assistant.readouts.library import CONCEPT, NOUN, Readout, ReadoutLibrary
from fourfold.prompts.errors import UserError

Shown = tuple[np.ndarray, Sequence[Box], bool]
"""Features (rows, columns, width), normalised; boxes; whether they show the thing or something that it is not."""
MOST_PRIOR = 10
"""Boxes that the library's noun of the same name counts for at most."""
_REFUSED = 0.5  # what is not the thing counts against it by this part


def concept_readout(name: str, examples: Sequence[Shown], base: ReadoutLibrary | Domain) -> Readout:
    """The read-out of what was shown.

    Args:
        name: as a person calls it. Where the library has a noun of this name, what was shown is added to it.
        examples: pictures with boxes. One that does not show the thing may have no box: the thing is nowhere in it,
            and what looks most like it counts.
        base: the library of the tower, or the sort of pictures alone.

    Raises:
        UserError: no example shows the thing, or none of its boxes has an area.
    """
    domain = base if isinstance(base, Domain) else next(iter(base.domains.values()))
    patches, pictures, logs = [], [], []
    for features, boxes, positive in examples:
        if not positive:
            continue
        for box in distinct(boxes, 0.95):
            patches.append(_mean_patch(features, box))
            logs.append(math.log(box.area))
        pictures.append(features.mean((0, 1)))
    if not patches:
        raise UserError(f"{name[:80]!r} needs at least one box with an area that shows it")
    difference = np.mean(patches, axis=0) - domain.patches.mean
    known = None if isinstance(base, Domain) else _noun(base, name)
    count = len(patches)
    if known is not None:
        prior = min(known.boxes, MOST_PRIOR)
        before = _difference(known, domain)
        difference = (prior * before + count * difference) / (prior + count)
    refused = [_refused(features, boxes, domain, difference) for features, boxes, good in examples if not good]
    if refused:
        difference = difference - _REFUSED * (np.mean(refused, axis=0) - domain.patches.mean)
    areas = np.array([sum(logs), sum(log * log for log in logs)])
    taught = Taught(domain.patches.mean + difference, np.mean(pictures, axis=0), areas, count)
    [readout] = make_readouts(CONCEPT, domain, [(name, taught)])
    return readout


def _mean_patch(features: np.ndarray, box: Box) -> np.ndarray:
    rows, columns, width = features.shape
    return patches_of(box, rows, columns).ravel() @ features.reshape(-1, width)


def _refused(features: np.ndarray, boxes: Sequence[Box], domain: Domain, difference: np.ndarray) -> np.ndarray:
    """What is not the thing: the boxes, or without any the patches that look most like it."""
    real = distinct(boxes, 0.95)
    if real:
        return np.mean([_mean_patch(features, box) for box in real], axis=0)
    flat = features.reshape(-1, features.shape[-1])
    scores = flat @ domain.patches.discriminants(difference[None]).weights[0]
    best = np.argsort(scores)[-max(1, len(scores) // 40) :]
    return flat[best].mean(0)


def _noun(base: ReadoutLibrary, name: str) -> Readout | None:
    domain = next(iter(base.domains))
    return next((r for r in base.readouts if r.kind == NOUN and r.name == name.lower() and r.domain == domain), None)


def _difference(readout: Readout, domain: Domain) -> np.ndarray:
    """The difference of means that a read-out was made of."""
    return np.linalg.solve(
        domain.patches.inverse.astype(np.float64), readout.scale * readout.weights.astype(np.float64)
    )
