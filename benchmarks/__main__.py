"""Speed and memory of fourfold beside its peers and beside what this machine could do at best, in one run.

    python -m benchmarks [--quick] [--json out.json] [--document] [--model DIR]

Everything that is compared is measured in turns, round after round. Run it on a quiet machine, with the peers that
`make peers` installs; a full run takes some 15 minutes, `--quick` (few rounds and tokens) six. `ratios` are our figures
divided by their yardsticks, and `wanted` says which direction is good and what is to be reached; one without its peer
is null, and `reasons` says why. `--document` keeps the medians in benchmarks/results, under the kind of this
processor, and writes the tables of docs/performance.md and README.md from all that is kept there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.figures import Figure
from benchmarks.questions import ROOT
from benchmarks.speed.cold import cold_starts
from benchmarks.speed.conversation import conversation
from benchmarks.speed.decode import decode_rates
from benchmarks.speed.limits import kind_of, limits, processor, versions
from benchmarks.speed.report import RATIOS, keep, ratios, verdicts, write_pages
from benchmarks.speed.servers import VLLM_PYTHON, commands
from benchmarks.speed.side_by_side import compare_servers
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.files import write_text
from fourfold.assistant.machine import cores


def measure(model: Path, quick: bool, logs: Path) -> dict[str, Any]:
    """Everything; plain JSON."""
    rounds, tokens = (2, 32) if quick else (5, 96)
    started, load, found = time.time(), os.getloadavg(), processor()
    _say("limits")
    yardsticks = limits(rounds)
    _say("decoding")
    decoded, peers = decode_rates(model, rounds, tokens)
    figures = {f"decode {name}": figure for name, figure in decoded.items()}
    _say("a conversation")
    figures |= conversation(model, rounds, max(yardsticks["matmul"].runs))
    _say("cold starts")
    figures |= {f"cold start {name}": figure for name, figure in cold_starts(model, rounds).items()}
    _say("servers")
    figures |= compare_servers(model, rounds, tokens, logs)
    return {
        "quick": quick,
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "commit": _commit(),
        "model": model.name,
        "machine": {
            "kind": kind_of(found["flags"]),
            **found,
            "cores": os.cpu_count(),
            "threads": cores(),
            "load_before": round(load[0], 2),
        },
        "versions": {
            **versions("fourfold", "torch", "transformers", "onnxruntime"),
            **peers,
            "vllm": _version_of_vllm(),
        },
        "commands": {name: " ".join(command[1:]) for name, command in commands(Path(model.name), 8000).items()},
        "rounds": rounds,
        "tokens": tokens,
        "limits": {name: figure.to_json() for name, figure in yardsticks.items()},
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        **_ratios(figures),
        "minutes": (time.time() - started) / 60,
    }


def _ratios(figures: dict[str, Figure]) -> dict[str, Any]:
    found, reasons = ratios(figures)
    wanted = {name: {"better": one.better, "wanted": one.wanted, "is": one.words} for name, one in RATIOS.items()}
    return {"ratios": found, "wanted": wanted, "reasons": reasons}


def _commit() -> str:
    """Of the working tree; with a plus where files differ from it."""
    asked = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    said = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT)
    return said.stdout.strip() or "unknown"


def _version_of_vllm() -> str | None:
    """Of its own environment."""
    folders = list(VLLM_PYTHON.parents[1].glob("lib/python*/site-packages"))
    return next((found.version for found in distributions(name="vllm", path=[*map(str, folders)])), None)


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, write the JSON, and with `--document` the pages."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and tokens")
    parser.add_argument("--json", type=Path, help="where everything that was measured goes, all runs of it")
    parser.add_argument("--document", action="store_true", help="keep the medians and write the tables of the docs")
    parser.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as logs:
        result = measure(resolve_model(given.model), given.quick, Path(logs))
    if given.json:
        write_text(given.json, json.dumps(result, indent=1) + "\n")
    if given.document:
        print(keep(result))
        write_pages()
    print("\n".join(verdicts(result["ratios"], result["reasons"])))
    print(f"{result['minutes']:.1f} minutes")


if __name__ == "__main__":
    main()
