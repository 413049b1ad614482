"""The speed benchmarks on the tiny checkpoint: that they measure something, and what is made of it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from PIL import Image
from typer.testing import CliRunner

from benchmarks import decode, servers
from benchmarks.conversation import STAGES, conversation
from benchmarks.decisions import ask_both_ways
from benchmarks.decode import FORMATS, decode_rates
from benchmarks.figures import Figure, in_turns, ratio
from benchmarks.growth import AXES, growth, plot
from benchmarks.limits import limits, processor
from benchmarks.questions import ROOT, photo
from benchmarks.report import RATIOS, ratios, write_pages
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import live_server


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
    assert ratio(Figure("s", [1.0, 10.0, 1.2]), Figure("s", [2.0, 20.0, 2.0])) == 0.5
    assert ratio(Figure("s", [1.0]), Figure("s", reason="absent")) is None


def test_the_photo_has_the_megapixels_it_says(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo(2))
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.width * image.height == pytest.approx(2e6, rel=0.01)


def test_limits_are_measured() -> None:
    assert all(figure.value > 0 for figure in limits(1).values() if figure.value is not None)


def test_the_processor_is_recorded_with_what_makes_it_fast(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Abacus 9\nflags\t\t: fpu sse avx2 avx512_bf16 avx_vnni\n\nprocessor\t: 1\n"
    )
    assert processor(cpuinfo) == {"processor": "Abacus 9", "flags": ["avx2", "avx_vnni", "avx512_bf16"]}
    assert processor(tmp_path / "absent")["flags"] == []


def test_decoding_of_every_format_has_a_figure_and_a_limit(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise RuntimeError("not installed")

    monkeypatch.setattr(decode, "LlamaCpp", absent)
    figures, versions = decode_rates(tiny_checkpoint, 1, 4)
    assert versions == {}
    for name in FORMATS:
        assert figures[name].value is not None
        assert figures[name].limit is not None
    # 8-bit weights with their scales take 9/32 of those in float32, and the limit is in proportion.
    assert figures["fourfold"].limit is not None and figures["fourfold float32"].limit is not None
    assert figures["fourfold"].limit > 3 * figures["fourfold float32"].limit
    assert figures["generate, float32"].value is not None
    assert figures["llama.cpp"].value is None and figures["llama.cpp"].reason == "not installed"


SCRIPTED = """
import sys, threading
from tests.assistant.scripted_endpoint import ScriptedEndpoint
ScriptedEndpoint(lambda body: "one two three", pause=0.002, port=int(sys.argv[1]))
threading.Event().wait()
"""


def test_servers_are_started_asked_and_ended(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commands(model: Path, port: int) -> dict[str, list[str]]:
        answers = [sys.executable, "-c", SCRIPTED, str(port)]
        broken = [sys.executable, "-c", "raise SystemExit('no such flag')"]
        return {"fourfold": answers, "transformers serve": broken, "vllm": [str(tmp_path / "python")]}

    monkeypatch.setattr(servers, "commands", commands)
    monkeypatch.setattr(servers, "CROWDS", (2,))
    figures = servers.compare_servers(tiny_checkpoint, 1, 8, tmp_path)
    for what in ("startup", "first token", "follow-up", "alone", "8 at once, long", "2 at once", "memory"):
        assert (figures[f"{what} fourfold"].value or 0) > 0, what
        assert "no such flag" in (figures[f"{what} transformers serve"].reason or "")
        assert "make vllm-env" in (figures[f"{what} vllm"].reason or "")


def test_servers_know_the_flags_that_they_are_started_with() -> None:
    from transformers.cli.transformers import app as peer

    from fourfold.cli.main import app

    commands = servers.commands(Path("model"), 8000)
    for name in ("fourfold", "vllm"):
        words = commands[name][commands[name].index("fourfold") + 1 :]
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, words
    flags = {word for word in commands["transformers serve"] if word.startswith("--")}
    assert "--continuous-batching" in flags
    assert flags <= {name for option in peer.commands["serve"].params for name in option.opts}


def test_a_conversation_has_its_stages(tiny_checkpoint: Path) -> None:
    figures = conversation(tiny_checkpoint, 1, matmul=50.0)
    assert all(figures[name].value for name in ("first", "follow_up", "evaluation", *STAGES))
    assert sum(figures[stage].runs[0] for stage in STAGES) <= figures["first"].runs[0]


def test_decisions_are_compared_with_chats(tiny_checkpoint: Path) -> None:
    asked = servers.Server.__new__(servers.Server)  # as it is once the process answers
    with Engine.load(tiny_checkpoint, name="tiny") as engine, live_server(engine) as live:
        asked.client, asked.called = OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0), "tiny"
        figures = ask_both_ways(asked, 1, 2)
    assert all(figures[name].value for name in ("decisions", "ten chats")), figures


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
    names += ["cold start chat", "cold start floor", "decisions", "ten chats"]
    figures = {name: Figure("s", [float(place + 1)]) for place, name in enumerate(names)}
    figures["decode fourfold"].limit, figures["decode fourfold"].limit_is = 4.0, "20 GB/s"
    for what in ("first token", "follow-up", "alone", "8 at once, long", "8 at once", "startup", "memory"):
        figures[f"{what} fourfold"], figures[f"{what} transformers serve"] = Figure("s", [2.0]), Figure("s", [1.0])
        figures[f"{what} vllm"] = Figure("s", reason="not here")
    found, reasons = ratios(figures)
    return {
        "quick": True,
        "date": "2026-01-01",
        "machine": {"processor": "Abacus", "flags": ["avx2"], "cores": 2, "threads": 2, "load_before": 0.1},
        "versions": {"torch": "2.13.0"},
        "rounds": 1,
        "tokens": 4,
        "limits": {name: Figure("GB/s", [20.0]).to_json() for name in ("memory", "matmul")},
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        "ratios": found,
        "reasons": reasons,
        "growth": {"images": [{"x": 1, "first_token": 0.1, "tokens_per_s": 3.0, "memory_mib": 5.0}]},
    }


def test_every_ratio_is_there_or_says_why_not() -> None:
    found, reasons = result()["ratios"], result()["reasons"]
    assert set(found) == set(RATIOS)
    assert found["decode_vs_limit"] == 0.25
    assert found["decode_vs_llama_cpp"] == pytest.approx(1 / 3)
    assert found["followup_ttft"] == pytest.approx(5 / 4)
    assert found["memory_vs_transformers_serve"] == 2
    assert reasons == dict.fromkeys(("decode_vs_vllm_cpu", "concurrent8_vs_vllm_cpu"), "not here")
    assert {name for name, value in found.items() if value is None} == set(reasons)


def test_the_pages_are_written_between_their_marks(tmp_path: Path) -> None:
    page, readme = tmp_path / "docs" / "performance.md", tmp_path / "README.md"
    page.parent.mkdir()
    page.write_text("# Speed\n\n<!-- measured: begin -->\nold figures\n<!-- measured: end -->\n\n## Planning\n")
    readme.write_text("# It\n<!-- speed: begin -->\nold figures\n<!-- speed: end -->\nEnd\n")
    write_pages(json.loads(json.dumps(result())), tmp_path)
    text = page.read_text()
    assert text.startswith("# Speed") and text.endswith("## Planning\n")
    assert "old figures" not in text + readme.read_text()
    assert "| one answer's tokens a second, of the limit by memory bandwidth | **0.25** | ≥ 0.6 |" in text
    assert "| … of vLLM's on this CPU | – (not here) | ≥ 1 |" in text
    assert "Abacus (avx2)" in text
    # The least seconds are the best ones, and the most tokens.
    row = "| `transformers serve` | **1.00** | **1.00** | 1 | 1 | 1.0 | **1.0** | **1** |"
    assert row in text and row in readme.read_text() and readme.read_text().endswith("End\n")
    assert (tmp_path / "docs" / "images" / "growth-images.png").is_file()
    write_pages(result(), tmp_path)
    assert page.read_text() == text


def test_the_readme_quotes_the_figures_of_the_page() -> None:
    def table(text: str) -> list[str]:
        return [
            line
            for line in text.splitlines()
            if line.startswith(("| fourfold |", "| `transformers serve` |", "| vLLM"))
        ]

    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- speed: begin -->")[2]
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").partition("<!-- measured: begin -->")[2]
    assert len(table(readme)) == 3 and table(readme) == table(page)
