"""Defects on rendered surfaces: found by name, and by comparison with good pieces."""

from collections.abc import Sequence

import numpy as np

from fourfold.assistant.patches.compare import GoodPictures
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.readouts.domain import Moments
from fourfold.assistant.training.data.surfaces import DEFECTS, Surface, make_surface
from fourfold.eval.scorers.ranking import auroc
from fourfold.eval.statistics import Estimate, bootstrap_weighted, clustered_mean
from fourfold.eval.vision.row import Row, See

_TOUCHED = 0.1  # part of a patch from which on it counts as of a defect


def touched(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns), 0..1: the part of each patch that a mask of pixels covers."""
    height, width = mask.shape
    return mask.reshape(rows, height // rows, columns, width // columns).mean((1, 3))


def measure_named(see: See, learn: int, test: int, on_progress: OnProgress) -> list[Row]:
    """Heat maps of named defects: read-outs learnt from rendered surfaces, tried on products never seen.

    Figures are of patches: whether those of a defect score higher than those of sound surface (AUROC), whether they do
    so against those of other defects too, and whether the map's peak lies on the defect.
    """
    moments: Moments | None = None
    means: dict[str, list[np.ndarray]] = {kind: [] for kind in DEFECTS}
    for number in range(learn):
        on_progress(Progress("Learning defects", number, learn))
        surface = make_surface(f"learn {number}")
        features = see(surface.render())
        moments = moments or Moments(features.shape[-1])
        moments.add(features)
        for defect in surface.defects:
            weight = touched(defect.mask, *features.shape[:2])
            if weight.any():
                means[defect.kind].append(np.tensordot(weight / weight.sum(), features, 2))
    on_progress(Progress("Learning defects", learn, learn))
    assert moments is not None
    spread = moments.domain("surfaces").patches
    readouts = spread.discriminants(np.stack([np.mean(means[kind], axis=0) - spread.mean for kind in DEFECTS]))
    values: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = {kind: [] for kind in DEFECTS}
    peaks: dict[str, list[float]] = {kind: [] for kind in DEFECTS}
    for number in range(test):
        on_progress(Progress("Finding defects", number, test))
        surface = make_surface(f"test {number}")
        features = see(surface.render())
        for kind, unit, bias in zip(DEFECTS, readouts.weights, readouts.biases, strict=True):
            scores = features @ unit + bias
            masks = [touched(one.mask, *scores.shape) for one in surface.defects if one.kind == kind]
            cover = np.max([np.zeros(scores.shape), *masks], axis=0)
            values[kind].append((surface.product, scores, cover))
            if masks:
                peaks[kind].append(float(cover.flat[scores.argmax()] > 0))
    on_progress(Progress("Finding defects", test, test))
    rows = []
    for kind in DEFECTS:
        rows.append(Row(f"named: {kind}", "AUROC of patches", _patch_auroc(values[kind])))
        rows.append(Row(f"named: {kind}", "peak on the defect", clustered_mean(peaks[kind], range(len(peaks[kind])))))
    return rows


def _patch_auroc(seen: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Estimate:
    """Of patches that a defect touches against those that it does not, over pictures; percent."""
    truths = np.concatenate([cover.ravel() > _TOUCHED for _, _, cover in seen])
    scores = np.concatenate([score.ravel() for _, score, _ in seen])
    pictures = np.repeat([product for product, _, _ in seen], [cover.size for _, _, cover in seen])
    return bootstrap_weighted(lambda weights: 100 * auroc(truths, scores, weights), pictures.tolist())


def measure_compared(see: See, products: int, good: int, on_progress: OnProgress) -> list[Row]:
    """Comparison with good pieces: each product has so many, and good and bad ones that were never seen."""
    images: list[tuple[str, bool, float, str]] = []
    patches: list[tuple[str, np.ndarray, np.ndarray]] = []
    for number in range(products):
        on_progress(Progress("Comparing with good pieces", number, products))
        product = f"product {number}"
        bank = GoodPictures([see(Surface(product, f"good {piece}").render()) for piece in range(good)])
        pieces = [Surface(product, f"test {piece}") for piece in range(6)]
        pieces += [Surface(product, f"bad {piece}", (DEFECTS[piece % 3],)) for piece in range(9)]
        for surface in pieces:
            distances = bank.distances(see(surface.render()))
            kind = surface.kinds[0] if surface.kinds else ""
            images.append((product, bool(surface.kinds), float(np.sort(distances.ravel())[-3:].mean()), kind))
            patches.append((product, distances, touched(surface.mask, *distances.shape)))
    on_progress(Progress("Comparing with good pieces", products, products))
    rows = [Row("compared", "AUROC of pictures", _image_auroc(images))]
    for kind in DEFECTS:
        some = [image for image in images if image[3] in ("", kind)]
        rows.append(Row(f"compared: {kind}", "AUROC of pictures", _image_auroc(some)))
    rows.append(Row("compared", "AUROC of patches", _patch_auroc(patches)))
    sound = [image for image in images if not image[1]]
    alarms = clustered_mean([float(score > 1) for _, _, score, _ in sound], [product for product, *_ in sound])
    flawed = [image for image in images if image[1]]
    caught = clustered_mean([float(score > 1) for _, _, score, _ in flawed], [product for product, *_ in flawed])
    return [*rows, Row("compared", "bad pieces above 1", caught), Row("compared", "good pieces above 1", alarms)]


def _image_auroc(images: Sequence[tuple[str, bool, float, str]]) -> Estimate:
    """Over products, each judged by its own bank; percent."""
    names = [product for product, *_ in images]
    found = []
    for product in dict.fromkeys(names):
        own = [image for image in images if image[0] == product]
        found.append(auroc([bad for _, bad, _, _ in own], [score for _, _, score, _ in own]))
    return clustered_mean(found, list(dict.fromkeys(names)))
