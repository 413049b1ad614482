"""The speed benchmarks on the tiny checkpoint: that they measure something, and what is made of it."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from PIL import Image
from typer.testing import CliRunner

from benchmarks.decisions import ask_both_ways
from benchmarks.figures import Figure, in_turns, ratio
from benchmarks.questions import ROOT, photo
from benchmarks.speed import decode, servers, side_by_side
from benchmarks.speed.conversation import STAGES, conversation
from benchmarks.speed.decode import FORMATS, decode_rates
from benchmarks.speed.limits import kind_of, limits, processor, work_of
from benchmarks.speed.report import RATIOS, keep, kept_results, measured, ratios, verdicts, write_pages
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
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
    assert kind_of(["avx2", "avx_vnni", "avx512_bf16"]) == "avx512_bf16"
    assert kind_of(["avx2"]) == "avx2" and kind_of(["asimddp", "bf16"]) == "bf16" and kind_of([]) == "plain"


def test_the_work_is_that_of_the_loaded_model(tiny_checkpoint: Path) -> None:
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(tiny_checkpoint)
    work = work_of(tiny_checkpoint)
    products = [module.weight.numel() for module in model.model.language_model.layers.modules() if is_linear(module)]
    assert work.prompt_flops == 2 * sum(products)
    assert work.token_weights == sum(products) + model.lm_head.weight.numel()
    # Every patch and the class token through every matrix of the tower, and through attention's own two products.
    vision = model.config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    tower = [module.weight.numel() for module in model.model.vision_tower.modules() if is_linear(module)]
    patches = model.model.vision_tower.embeddings.patch_embedding.weight.numel()
    attention = vision.num_hidden_layers * 2 * (2 * tokens**2 * vision.hidden_size)
    assert work.picture_flops == 2 * tokens * (sum(tower) + patches) + attention


def is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


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


# One question in five hangs up without a word.
SCRIPTED = """
import itertools, sys, threading
from tests.assistant.scripted_endpoint import ScriptedEndpoint
numbers = itertools.count(1)
def answer(body):
    short = body["max_tokens"] == 8 and body["messages"][0]["content"] != "Hi"
    return "" if short and next(numbers) % 5 == 0 else "one two three"
ScriptedEndpoint(answer, pause=0.002, port=int(sys.argv[1]))
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
    monkeypatch.setattr(side_by_side, "commands", commands)
    monkeypatch.setattr(side_by_side, "CROWDS", (1, 2, 9))
    figures = side_by_side.compare_servers(tiny_checkpoint, 1, 32, tmp_path)
    crowd = [f"9 at once{what}" for what in ("", ", goodput", ", median wait", ", longest wait", ", failed")]
    for what in ("startup", "first token", "follow-up", "alone", "8 at once, long", *crowd, "memory"):
        assert (figures[f"{what} fourfold"].value or 0) > 0, what
        assert "no such flag" in (figures[f"{what} transformers serve"].reason or "")
        assert "make peers" in (figures[f"{what} vllm"].reason or "")
    answered, failed = figures["9 at once fourfold"].runs[0], figures["9 at once, failed fourfold"].runs[0]
    assert failed == 2.0  # of the questions 8 to 16 the tenth and the fifteenth
    assert figures["9 at once, goodput fourfold"].runs[0] == answered  # all of them came within two seconds
    assert figures["9 at once, median wait fourfold"].runs[0] <= figures["9 at once, longest wait fourfold"].runs[0]


def test_servers_know_the_flags_that_they_are_started_with() -> None:
    from transformers.cli.transformers import app as peer

    from fourfold.cli.main import app

    commands = servers.commands(Path("model"), 8000)
    for name in ("fourfold", "vllm"):
        words = commands[name][commands[name].index("fourfold") + 1 :]
        assert CliRunner().invoke(app, [words[0], "--help", *words[1:]]).exit_code == 0, words
    flags = {word for word in commands["transformers serve"] if word.startswith("--")}
    assert "--continuous-batching" in flags
    assert flags <= {name for option in peer.commands["serve"].params for name in option.opts}


def test_a_conversation_has_its_stages(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.speed.conversation.photo", lambda: photo(2))
    figures = conversation(tiny_checkpoint, 1, matmul=50.0)
    assert all(figures[name].value for name in ("first", "follow_up", *STAGES))
    assert sum(figures[stage].runs[0] for stage in STAGES) <= figures["first"].runs[0]


def test_decisions_are_compared_with_chats(tiny_checkpoint: Path) -> None:
    asked = servers.Server.__new__(servers.Server)  # as it is once the process answers
    with Engine.load(tiny_checkpoint, name="tiny") as engine, live_server(engine) as live:
        asked.client, asked.called = OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0), "tiny"
        figures = ask_both_ways(asked, 1, 2)
    assert all(figures[name].value for name in ("decisions", "ten chats")), figures


def result() -> dict[str, Any]:
    names = ["decode fourfold", "decode generate, float32", "decode llama.cpp", "first", "follow_up", "preprocess"]
    names += ["cold start chat", "cold start floor"]
    figures = {name: Figure("s", [float(place + 1)]) for place, name in enumerate(names)}
    figures["decode fourfold"].limit, figures["decode fourfold"].limit_is = 4.0, "20 GB/s"
    measured = ("first token", "follow-up", "alone", "8 at once, long", "1 at once", "8 at once", "startup", "memory")
    for what in (*measured, "8 at once, goodput", "8 at once, failed"):
        figures[f"{what} fourfold"], figures[f"{what} transformers serve"] = Figure("s", [2.0]), Figure("s", [1.0])
        figures[f"{what} vllm"] = Figure("s", reason="not here")
    found, reasons = ratios(figures)
    return {
        "quick": True,
        "date": "2026-01-01",
        "commit": "abc1234",
        "machine": {
            "kind": "avx2",
            "processor": "Abacus",
            "flags": ["avx2"],
            "cores": 2,
            "threads": 2,
            "load_before": 0.1,
        },
        "versions": {"torch": "2.13.0", "vllm": None},
        "commands": {"fourfold": "-m fourfold serve"},
        "rounds": 1,
        "tokens": 4,
        "limits": {name: Figure("GB/s", [20.0]).to_json() for name in ("memory", "matmul")},
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        "ratios": found,
        "reasons": reasons,
    }


def test_every_ratio_is_there_or_says_why_not() -> None:
    found, reasons = result()["ratios"], result()["reasons"]
    assert set(found) == {
        "decode_vs_limit", "decode_vs_vllm_cpu", "decode_vs_llama_cpp", "followup_ttft",
        "concurrent8_vs_transformers_serve", "concurrent8_vs_vllm_cpu", "preprocess_share", "cold_start",
        "memory_vs_transformers_serve", "startup_vs_transformers_serve", "alone_vs_transformers_serve",
    }  # fmt: skip
    assert found["decode_vs_limit"] == 0.25
    assert found["decode_vs_llama_cpp"] == pytest.approx(1 / 3)
    assert found["followup_ttft"] == pytest.approx(5 / 4)
    assert found["memory_vs_transformers_serve"] == found["alone_vs_transformers_serve"] == 2
    assert reasons == dict.fromkeys(("decode_vs_vllm_cpu", "concurrent8_vs_vllm_cpu"), "not here")
    assert {name for name, value in found.items() if value is None} == set(reasons)


def test_the_terminal_says_what_is_reached_in_which_direction() -> None:
    told = {line.split()[0]: line for line in verdicts(result()["ratios"], result()["reasons"])}
    assert told["alone_vs_transformers_serve"].split()[1:] == ["2.00", "≥", "1", "reached"]
    assert told["memory_vs_transformers_serve"].split()[1:] == ["2.00", "≤", "1", "missed"]
    assert told["decode_vs_vllm_cpu"].endswith("not here")


def test_what_is_kept_has_medians_and_no_path_of_a_machine(tmp_path: Path) -> None:
    path = keep(result(), tmp_path / "results")
    [kept] = kept_results(path.parent)
    assert path.name == "avx2.json" and kept["ratios"] == result()["ratios"]
    assert kept["figures"]["alone fourfold"] == {"value": 2.0, "unit": "s"}
    assert kept["figures"]["alone vllm"] == {"unit": "s", "reason": "not here"}
    assert not {"runs", "commands", "model"} & set(kept)


def test_no_kept_result_names_a_path() -> None:
    assert kept_results()
    for one in kept_results():
        assert set(one["ratios"]) == set(RATIOS)
        assert not re.search(r"/(?:work|home|root|tmp|usr|opt)/", json.dumps(one))


def test_the_pages_are_written_between_their_marks(tmp_path: Path) -> None:
    page, readme = tmp_path / "docs" / "performance.md", tmp_path / "README.md"
    page.parent.mkdir()
    page.write_text("# Speed\n\n<!-- measured: begin -->\nold figures\n<!-- measured: end -->\n\n## Planning\n")
    readme.write_text("# It\n<!-- speed: begin -->\nold figures\n<!-- speed: end -->\nEnd\n")
    results = tmp_path / "benchmarks" / "results"
    results.parent.mkdir()
    keep(json.loads(json.dumps(result())), results)
    before = {**json.loads((results / "avx2.json").read_text()), "before": "Long ago.", "date": "2025-01-01"}
    before["ratios"] = {"decode_vs_limit": 0.9}
    before["reasons"] = {}
    (results / "avx2-before.json").write_text(json.dumps(before))
    write_pages(tmp_path)
    text = page.read_text()
    assert text.startswith("# Speed") and text.endswith("## Planning\n")
    assert "old figures" not in text + readme.read_text()
    assert "| ratio | wanted | `avx2` before, 2025-01-01 | `avx2`, 2026-01-01 |" in text
    assert "| one answer's tokens a second, of the limit by memory bandwidth | ≥ 0.6 | **0.90** | 0.25 |" in text
    assert "| … of vLLM's on this CPU | ≥ 1.5 | – | – (not here) |" in text
    assert "**`avx2` before**: Long ago." in text and "Abacus (avx2)" in text and "Long ago" not in readme.read_text()
    # The least seconds are the best ones, and the most tokens.
    row = "| `transformers serve` | **1.00** | **1.00** | 1 | 1 | 1.0 | **1.0** | **1** |"
    assert row in text and row in readme.read_text() and readme.read_text().endswith("End\n")
    assert "| 8 | fourfold | 2 | 2 |" in text and "| 8 | vLLM (CPU), our model class | – | – |" in text
    write_pages(tmp_path)
    assert page.read_text() == text


def test_the_page_and_the_readme_are_written_from_what_is_kept() -> None:
    def between(page: str, mark: str) -> str:
        text = (ROOT / page).read_text(encoding="utf-8")
        return text.partition(f"<!-- {mark}: begin -->")[2].partition(f"<!-- {mark}: end -->")[0].strip()

    page = between("docs/performance.md", "measured")
    assert page == "\n".join(measured(kept_results())).strip()
    table = [line for line in between("README.md", "speed").splitlines() if line.startswith("|")]
    assert table and "\n".join(table) in page
