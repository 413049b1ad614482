"""docs/performance.md, written from what `python -m benchmarks` measured."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving import ROOT

PAGE = ROOT / "docs" / "performance.md"
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"
TARGETS = {
    "decode_vs_limit": ("one answer's tokens a second, of the limit by memory bandwidth", "≥ 0.6"),
    "decode_vs_generate": ("… of transformers' `generate`", "–"),
    "decode_vs_vllm_cpu": ("… of vLLM's on this CPU", "≥ 2"),
    "decode_vs_llama_cpp": ("… of llama.cpp's with the same SmolLM2 in 4 bit", "≥ 1"),
    "followup_ttft": ("time to the first token of a second question, of the first one's", "≤ 0.25"),
    "concurrent8_vs_transformers_serve": ("8 short questions at once, of `transformers serve`", "≥ 5"),
    "concurrent8_vs_vllm_cpu": ("… of vLLM's on this CPU", "≥ 1"),
    "preprocess_share": ("preparing a 12-megapixel JPEG, of the time to the first token", "≤ 0.10"),
    "cold_start": ("`fourfold chat`, of importing torch and transformers and reading the weights", "≤ 2"),
}
"""Each ratio in words, and what was asked of it."""


def write_page(result: Mapping[str, Any], page: Path = PAGE) -> None:
    """Replace what stands between the page's two marks by the result's tables, and draw its plots beside it."""
    from benchmarks.growth import plot

    before, rest = page.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    plots = plot(result["growth"], page.parent / "images")
    text = "\n".join([_BEGIN, "", *measured(result), *_pictures(plots), "", _END])
    part = page.with_suffix(".part")
    part.write_text(before + text + after, encoding="utf-8")
    part.replace(page)


def measured(result: Mapping[str, Any]) -> Iterator[str]:
    """The tables, line by line."""
    machine = result["machine"]
    memory, matmul = (max(result["limits"][name]["runs"]) for name in ("memory", "matmul"))
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    yield (
        f"{result['date']}, {machine['processor']}, {machine['cores']} cores ({machine['threads']} used), load before "
        f"{machine['load_before']:.1f}; medians of {result['rounds']} rounds taken in turns, {result['tokens']} tokens "
        f"an answer{' (a quick run)' if result['quick'] else ''}. Limits: memory {memory:.1f} GB/s, float32 matrix "
        f"products {matmul:.0f} GFLOP/s. {versions}."
    )
    yield from ("", "| ratio | here | wanted |", "|---|---:|---:|")
    for name, (words, wanted) in TARGETS.items():
        value = result["ratios"].get(name)
        cell = f"**{value:.2f}**" if value is not None else f"– ({result['reasons'].get(name, 'not measured')})"
        yield f"| {words} | {cell} | {wanted} |"
    yield from ("", "| figure | median | runs | limit | of the limit |", "|---|---:|---|---:|---:|")
    for name, figure in result["figures"].items():
        yield _figure(name, figure)


def _figure(name: str, figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return f"| {name} | – | {figure['reason']} | | |"
    runs = " ".join(f"{run:.3g}" for run in figure["runs"])
    limit, share = "", ""
    if figure["limit"] is not None:
        limit = f"{figure['limit']:.3g} ({figure['limit_is']})"
        # Of a rate the part that is reached; of a time how many times the least.
        share = f"{figure['value'] / figure['limit']:.2f}"
    return f"| {name} | {figure['value']:.3g} {figure['unit']} | {runs} | {limit} | {share} |"


def _pictures(plots: list[Path]) -> Iterator[str]:
    yield from ("", "How time, speed and memory grow (the default model):")
    for path in plots:
        yield from ("", f"![{path.stem.replace('-', ' with ')}](images/{path.name})")
