"""What a soak's lines come to."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.serving.soak.summary import MIB, expected, percentiles, plot, slope, summarise, windows


def test_a_slope_is_that_of_least_squares_and_its_interval_that_of_independent_samples() -> None:
    dice = np.random.default_rng(0)
    hours = np.arange(200) / 360
    values = 2000 + 3.0 * hours + dice.normal(0, 5, 200)
    found = slope(list(hours), list(values))
    assert found is not None and found.value == pytest.approx(np.polyfit(hours, values, 1)[0])
    (_, covariance) = np.polyfit(hours, values, 1, cov=True)
    assert found.high - found.low == pytest.approx(2 * 1.96 * covariance[0, 0] ** 0.5, rel=0.2)
    assert slope([0.0] * 9, [1.0] * 9) is None


def test_the_interval_of_samples_that_follow_each_other_covers_a_slope_of_nothing() -> None:
    """Memory of one process: each sample is near the one before. Plain least squares would find slopes in half."""
    dice, covered = np.random.default_rng(1), 0
    hours = list(np.arange(240) / 360)
    for _ in range(200):
        noise, values = dice.normal(size=240), [0.0]
        for step in noise[1:]:
            values.append(0.8 * values[-1] + step)
        found = slope(hours, values)
        assert found is not None
        covered += found.low <= 0 <= found.high
    assert covered / 200 > 0.9


def test_windows_and_percentiles() -> None:
    told = [{"at": at, "first": first} for at, first in ((1, 1.0), (2, 3.0), (61, None), (62, 2.0))]
    found = windows(told, 60)
    assert [(one["minute"], one["answers"], one["p50"]) for one in found] == [(0.5, 2, 2.0), (1.5, 1, 2.0)]
    assert percentiles([]) is None


def test_what_may_come_of_a_request() -> None:
    gone = "its adapter was rolled back"
    good = [(200, ""), ("left", ""), (404, gone)]
    bad = [(500, ""), ("broken", ""), ("wrong", ""), (404, ""), (429, "")]
    assert all(expected({"status": status, "note": note}) for status, note in good)
    assert not any(expected({"status": status, "note": note}) for status, note in bad)


def test_a_killed_run_has_a_summary_and_a_picture(tmp_path: Path) -> None:
    dice = random.Random(0)
    (tmp_path / "about.json").write_text('{"commit": "abc"}')
    sizes = {"open_files": 12, "threads": 9, "children": 0, "temporary_files": 0}
    sizes |= {"store": 1000, "history": 100, "log": 10, "processor_seconds": 5.0}
    samples = [{"at": 10.0 * n, "resident": (2000 + dice.random()) * MIB, **sizes} for n in range(60)]
    requests = [
        {"at": 3.0 * n, "client": "decisions" if n % 2 else "follow-ups", "status": 200, "first": 0.5, "note": ""}
        for n in range(190)
    ]
    events = [{"at": 60.0, "what": "promote", "trouble": ""}]
    for name, lines in (("samples", samples), ("requests", requests), ("events", events)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text + '{"at": 600.0, "resi')  # cut off
    found = summarise(tmp_path)
    assert (found["requests"], found["server_errors"], found["not_expected"]) == (190, 0, [])
    assert found["resident_flat"] and found["first_token_s"] == {"p50": 0.5, "p95": 0.5, "p99": 0.5}
    assert found["by_client"]["decisions"]["requests"] == 95 and found["events"] == {"promote": 1}
    plot(tmp_path, found, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
