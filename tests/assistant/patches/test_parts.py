"""Parts shown in one picture."""

import numpy as np
import pytest

from fourfold.assistant.patches.parts import Parts
from fourfold.assistant.readouts.domain import Moments, Spread
from fourfold.prompts.errors import UserError

WIDTH = 6


@pytest.fixture(scope="module")
def spread() -> Spread:
    rng = np.random.default_rng(0)
    moments = Moments(WIDTH)
    for _ in range(50):
        moments.add(rng.normal(size=(4, 4, WIDTH)).astype(np.float32) * np.arange(1, WIDTH + 1))
    return moments.domain("photos").patches


def picture(parts: dict[int, tuple[int, int]], seed: int = 0) -> np.ndarray:
    """Ordinary patches, and one patch a part that is far along an axis of its own."""
    made = 0.1 * np.random.default_rng(seed).normal(size=(4, 4, WIDTH)).astype(np.float32)
    for axis, place in parts.items():
        made[place][axis] += 8
    return made


def mask(*places: tuple[int, int], cover: float = 1.0) -> np.ndarray:
    made = np.zeros((4, 4), np.float32)
    for place in places:
        made[place] = cover
    return made


def test_parts_are_found_where_they_are_and_the_rest_is_none(spread: Spread) -> None:
    parts = Parts(picture({0: (0, 0), 1: (3, 3)}), {"head": mask((0, 0)), "foot": mask((3, 3))}, spread)
    labels = parts.labels(picture({0: (1, 2), 1: (2, 0)}, seed=1))
    assert parts.names == ("head", "foot")
    assert labels[1, 2] == 0
    assert labels[2, 0] == 1
    assert (labels >= 0).sum() == 2


def test_scores_are_log_odds_of_normal_densities_with_the_covariance_of_all_patches(spread: Spread) -> None:
    shown, other = picture({0: (0, 0)}), picture({0: (1, 1)}, seed=1)
    scores = Parts(shown, {"head": mask((0, 0))}, spread).scores(other)
    mean = shown[0, 0]

    def log_density(patch: np.ndarray, about: np.ndarray) -> float:
        return float(-0.5 * (patch - about) @ spread.inverse @ (patch - about))

    expected = [log_density(patch, mean) - log_density(patch, spread.mean) for patch in other.reshape(-1, WIDTH)]
    np.testing.assert_allclose(scores.ravel(), expected, rtol=1e-3, atol=1e-3)


def test_patches_of_a_border_teach_only_a_part_that_has_no_others(spread: Spread) -> None:
    features = picture({0: (0, 0), 1: (3, 3)})
    both = mask((0, 0)) + mask((3, 3), cover=0.3)
    assert np.array_equal(
        Parts(features, {"head": both}, spread).scores(features),
        Parts(features, {"head": mask((0, 0))}, spread).scores(features),
    )
    assert Parts(features, {"foot": mask((3, 3), cover=0.3)}, spread).labels(features)[3, 3] == 0


def test_parts_that_are_none_are_refused(spread: Spread) -> None:
    with pytest.raises(UserError, match="no part is annotated"):
        Parts(picture({}), {}, spread)
    with pytest.raises(UserError, match="'head' covers nothing"):
        Parts(picture({}), {"head": mask()}, spread)
