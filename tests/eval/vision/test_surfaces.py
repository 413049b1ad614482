"""Figures of defects, with features that anybody can compute in place of a tower's."""

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.readouts.features import normalised
from fourfold.eval.vision.surfaces import measure_compared, measure_named, touched


def see(image: Image.Image) -> np.ndarray:
    """Colours of a patch's pixels, how they spread, and how they change across and down."""
    cells = np.asarray(image, np.float32).reshape(16, 16, 16, 16, 3).transpose(0, 2, 1, 3, 4)
    across, down = np.abs(np.diff(cells, axis=3)).mean((2, 3)), np.abs(np.diff(cells, axis=2)).mean((2, 3))
    parts = [cells.mean((2, 3)), cells.std((2, 3)), cells.max((2, 3)), cells.min((2, 3)), across, down]
    return normalised(np.concatenate(parts, -1))


def test_a_patch_is_touched_by_the_part_of_it_that_a_mask_covers() -> None:
    mask = np.zeros((256, 256), bool)
    mask[:8, 16:32] = True
    cover = touched(mask, 16, 16)
    assert cover[0, 1] == 0.5
    assert cover.sum() == 0.5


def test_named_defects_are_found_on_products_never_seen() -> None:
    rows = measure_named(see, learn=30, test=6, on_progress=lambda event: None)
    found = {(row.of, row.figure): row.value for row in rows}
    assert set(found) == {
        (f"named: {kind}", figure)
        for kind in ("scratch", "stain", "dent")
        for figure in ("AUROC of patches", "peak on the defect")
    }
    assert found["named: scratch", "AUROC of patches"].value > 70
    assert found["named: scratch", "AUROC of patches"].n == 6 * 256


def test_pieces_with_defects_are_told_from_good_ones() -> None:
    rows = measure_compared(see, products=2, good=3, on_progress=lambda event: None)
    found = {(row.of, row.figure): row.value for row in rows}
    assert found["compared", "AUROC of pictures"].value > 70
    assert found["compared", "AUROC of pictures"].n == 2
    assert found["compared", "bad pieces above 1"].value > found["compared", "good pieces above 1"].value


def test_features_that_say_nothing_score_by_chance() -> None:
    rng = np.random.default_rng(0)
    rows = measure_compared(
        lambda image: rng.normal(size=(16, 16, 6)).astype(np.float32), 2, 2, on_progress=lambda event: None
    )
    found = {(row.of, row.figure): row.value.value for row in rows}
    assert found["compared", "AUROC of patches"] == pytest.approx(50, abs=12)
