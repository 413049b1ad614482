"""Speed and memory of fourfold beside its peers and beside what this machine could do at best, in one run.

    python -m benchmarks --json out.json [--quick] [--document] [--model DIR]

Everything that is compared is measured in turns, round after round. Run it on a quiet machine; `--quick` takes few
rounds and tokens and shows that everything works. vLLM is measured where `make vllm-env` made its environment,
llama.cpp where llama-cpp-python is installed or `FOURFOLD_LLAMA_CPP` names the folder that holds it. `ratios` are our
figures divided by their yardsticks; one without its peer is null, and `reasons` says why. `--document` writes the
tables and plots of docs/performance.md and README.md from the result.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.cold import cold_starts
from benchmarks.conversation import conversation
from benchmarks.decisions import decisions
from benchmarks.decode import decode_rates
from benchmarks.growth import growth
from benchmarks.limits import limits, processor, versions
from benchmarks.report import ratios, write_pages
from benchmarks.servers import commands, compare_servers
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.files import write_text
from fourfold.assistant.machine import cores


def measure(model: Path, quick: bool, logs: Path) -> dict[str, Any]:
    """Everything; plain JSON."""
    rounds, tokens = (2, 16) if quick else (5, 96)
    started, load = time.time(), os.getloadavg()
    yardsticks = limits(rounds)
    _say("decoding")
    decoded, peers = decode_rates(model, rounds, tokens)
    _say("a conversation")
    figures = conversation(model, rounds, max(yardsticks["matmul"].runs))
    figures |= {f"decode {name}": figure for name, figure in decoded.items()}
    _say("servers")
    figures |= compare_servers(model, rounds, tokens, logs)
    _say("decisions")
    figures |= decisions(model, rounds, 10 if quick else 100, logs)
    _say("cold starts")
    figures |= {f"cold start {name}": figure for name, figure in cold_starts(model, rounds).items()}
    _say("growth")
    found, reasons = ratios(figures)
    return {
        "quick": quick,
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "model": model.name,
        "machine": {
            **processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_before": load[0],
        },
        "versions": {**versions("fourfold", "torch", "transformers", "onnxruntime", "bitsandbytes"), **peers},
        "commands": {name: " ".join(command[1:]) for name, command in commands(Path(model.name), 8000).items()},
        "rounds": rounds,
        "tokens": tokens,
        "limits": {name: figure.to_json() for name, figure in yardsticks.items()},
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        "ratios": found,
        "reasons": reasons,
        "growth": growth(model, quick),
        "minutes": (time.time() - started) / 60,
    }


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, write the JSON, and with `--document` the pages."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="few rounds and tokens")
    parser.add_argument("--document", action="store_true", help="write the tables of the docs from the figures")
    parser.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as logs:
        result = measure(resolve_model(given.model), given.quick, Path(logs))
    write_text(given.json, json.dumps(result, indent=1) + "\n")
    if given.document:
        write_pages(result)
    print(json.dumps(result["ratios"], indent=1))


if __name__ == "__main__":
    main()
