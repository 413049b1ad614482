"""From the key press to the answer: `fourfold chat` in a fresh process, beside what importing torch costs."""

import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Figure, in_turns, seconds
from benchmarks.questions import ROOT, SAMPLE

_IMPORTS = """
import sys, torch, transformers
for name in sys.argv[1:]:
    with open(name, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
"""


def cold_starts(model: Path, rounds: int) -> dict[str, Figure]:
    """Seconds of `chat` (one question about the sample picture), `help` (`fourfold --help`) and `floor`.

    The floor is what every program around transformers pays: its imports, and the weights read once.
    """
    weights = [str(file) for file in model.glob("*.safetensors")]
    chat = ["-m", "fourfold", "chat", str(SAMPLE), "What colour is the ball?", "--model", str(model)]
    contestants = {
        "floor": lambda: _seconds(["-c", _IMPORTS, *weights]),
        "chat": lambda: _seconds(chat),
        "help": lambda: _seconds(["-m", "fourfold", "--help"]),
    }
    for run in contestants.values():
        run()  # files are in memory after that, as on any machine in use
    figures = in_turns(contestants, rounds, "s")
    figures["chat"].limit = figures["floor"].value
    figures["chat"].limit_is = "import torch, transformers; read the weights"
    return figures


def _seconds(arguments: list[str]) -> float:
    command = [sys.executable, *arguments]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True, cwd=ROOT))
