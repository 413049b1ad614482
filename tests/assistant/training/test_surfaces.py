"""Rendered surfaces: the same seed gives the same pixels, and masks say where they differ from a good piece."""

import numpy as np
import pytest

from fourfold.assistant.training.data.surfaces import DEFECTS, SIZE, Surface, make_surface


def test_a_seed_gives_the_same_piece_and_another_one_another() -> None:
    assert make_surface("a").render().tobytes() == make_surface("a").render().tobytes()
    assert make_surface("a").render().tobytes() != make_surface("b").render().tobytes()
    assert {kind for number in range(30) for kind in make_surface(str(number)).kinds} == set(DEFECTS)


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("piece", range(8))
def test_the_mask_is_where_the_piece_differs_from_a_good_one(kind: str, piece: int) -> None:
    good = np.asarray(Surface("p", str(piece)).render(), int)
    surface = Surface("p", str(piece), (kind,))
    changed = np.abs(np.asarray(surface.render(), int) - good).sum(-1)
    [defect] = surface.defects
    assert defect.mask.any()
    assert np.array_equal(surface.mask, defect.mask)
    assert changed[defect.mask].mean() > 8 * changed[~defect.mask].mean()
    rows, columns = np.nonzero(defect.mask)
    assert defect.box.as_tuple() == pytest.approx(
        (columns.min() / SIZE, rows.min() / SIZE, (columns.max() + 1) / SIZE, (rows.max() + 1) / SIZE)
    )


def test_boxes_of_a_scratch_are_those_of_its_pieces() -> None:
    surface = Surface("p", "long", ("scratch", "stain"))
    scratch, stain = surface.defects
    assert stain.boxes == (stain.box,)
    assert len(scratch.boxes) > 1
    assert sum(box.area for box in scratch.boxes) < scratch.box.area
    for box in scratch.boxes:
        assert max(box.x2 - box.x1, box.y2 - box.y1) <= 16 / SIZE


def test_pieces_of_a_product_are_alike() -> None:
    def colour(product: str, piece: str) -> np.ndarray:
        return np.asarray(Surface(product, piece).render(), float).mean((0, 1))

    assert np.abs(colour("p", "1") - colour("p", "2")).max() < 15
    assert any(np.abs(colour("p", "1") - colour(f"q{number}", "1")).max() > 30 for number in range(5))
