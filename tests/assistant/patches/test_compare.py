"""Comparing with good pictures."""

import numpy as np
import pytest

from fourfold.assistant.patches.compare import GoodPictures
from fourfold.prompts.errors import UserError


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(count, 4, 5, 8)).astype(np.float32))


def test_distances_are_to_the_nearest_good_patch_in_units_of_the_good_ones() -> None:
    good, [asked] = pictures(3), pictures(1, seed=1)
    bank = np.concatenate([picture.reshape(-1, 8) for picture in good])

    def nearest(patch: np.ndarray, among: np.ndarray) -> float:
        return min(float(np.linalg.norm(patch - other)) for other in among)

    def usual(left_out: int) -> float:
        others = np.concatenate([one.reshape(-1, 8) for place, one in enumerate(good) if place != left_out])
        return float(np.mean(sorted(nearest(patch, others) for patch in good[left_out].reshape(-1, 8))[-3:]))

    unit = max(map(usual, range(3)))
    expected = np.array([nearest(patch, bank) for patch in asked.reshape(-1, 8)]).reshape(4, 5) / unit
    found = GoodPictures(good)
    np.testing.assert_allclose(found.distances(asked), expected, rtol=1e-4)
    assert found.score(asked) == pytest.approx(np.sort(expected, axis=None)[-3:].mean(), rel=1e-4)


def test_a_good_picture_is_near_itself_and_a_flaw_is_where_it_is() -> None:
    good = pictures(4)
    bank = GoodPictures(good)
    assert bank.score(good[0]) < 0.01
    flawed = good[0].copy()
    flawed[2, 3] += 20
    distances = bank.distances(flawed)
    assert np.unravel_index(distances.argmax(), distances.shape) == (2, 3)
    assert bank.score(flawed) > 1


@pytest.mark.parametrize("count", [0, 1])
def test_one_good_picture_says_nothing_of_what_is_usual(count: int) -> None:
    with pytest.raises(UserError, match="two good pictures or more"):
        GoodPictures(pictures(count))
