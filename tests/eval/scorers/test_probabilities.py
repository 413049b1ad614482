"""Brier score, calibration error and temperature against hand-made numbers and other formulas."""

import math
import random

import pytest
import torch

from fourfold.eval.scorers.probabilities import brier, expected_calibration_error, fit_temperature, reliability


def test_brier_by_hand() -> None:
    rows = [(1.0, 0.0), (0.5, 0.5), (0.2, 0.8)]
    found = brier(rows, [0, 1, 0], ["a", "b", "c"])
    assert found.value == pytest.approx((0 + 0.5 + 2 * 0.64) / 3) and found.n == 3
    assert brier([(0.25,) * 4] * 2, [3, 0], ["a", "b"]).value == pytest.approx(0.75)
    assert brier([(0.0, 1.0)], [0], ["a"]).value == 2


def test_calibration_error_by_hand() -> None:
    # Bins 0.0-0.1, 0.7-0.8 and 0.9-1.0: gaps 0.05, |0.75 - 0.5| and 0, weighted by 1, 2 and 1.
    found = expected_calibration_error([0.05, 0.72, 0.78, 1.0], [False, True, False, True], list("abcd"))
    assert found.value == pytest.approx((0.05 + 2 * 0.25 + 0) / 4)
    bins = reliability([0.05, 0.72, 0.78, 1.0], [False, True, False, True])
    assert [(one.predicted, one.observed, one.n) for one in bins] == [
        (0.05, 0.0, 1),
        (pytest.approx(0.75), 0.5, 2),
        (1.0, 1.0, 1),
    ]
    assert all(one.low <= one.observed <= one.high for one in bins) and bins[0].high > 0.5


def test_calibrated_probabilities_have_a_small_error() -> None:
    rng = random.Random(0)
    told = [rng.random() for _ in range(4000)]
    happened = [rng.random() < p for p in told]
    images = [str(number // 2) for number in range(4000)]
    honest = expected_calibration_error(told, happened, images)
    assert honest.value < 0.03
    surer = [1 / (1 + ((1 - p) / p) ** 3) for p in told]
    boasting = expected_calibration_error(surer, happened, images)
    assert boasting.low is not None and honest.high is not None and boasting.low > honest.high


def test_temperature_is_where_the_loss_is_least() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 5, generator=generator) * 4
    right = torch.multinomial((rows / 2.5).softmax(-1), 1, generator=generator)[:, 0]
    found = fit_temperature(rows.tolist(), right.tolist())
    assert found == pytest.approx(2.5, rel=0.15)
    grid = torch.logspace(math.log10(0.5), 1, 2000)
    losses = torch.stack([torch.nn.functional.cross_entropy(rows / t, right) for t in grid])
    assert found == pytest.approx(float(grid[losses.argmin()]), rel=2e-3)


def test_temperature_has_bounds() -> None:
    assert fit_temperature([(0.0, -1.0)] * 3, [0] * 3) == pytest.approx(0.05)  # never wrong
    assert fit_temperature([(0.0, -1.0)] * 3, [1] * 3) == pytest.approx(20)  # never right
