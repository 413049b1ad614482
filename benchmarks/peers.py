"""Other engines in processes of their own, so that all may be asked in turns."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.serving import ROOT, VLLM_PYTHON


class Worker:
    """A process that answers JSON lines with JSON lines.

    Args:
        command: starts it.

    Raises:
        RuntimeError: it ended before it was ready.
    """

    def __init__(self, command: list[str]) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, cwd=ROOT
        )
        self.version: str = self._read()["version"]

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One question's answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        self._said.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            last = next((line for line in reversed(self._said.read().splitlines()) if line.strip()), "")
            raise RuntimeError(f"it ended with {code}: {last.strip()[:200]}")
        return json.loads(line)


@contextmanager
def decoding_peers(model: Path, threads: int) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """llama.cpp and vLLM, those that are here: (workers by name, reasons why others are not there by name)."""
    workers: dict[str, Worker] = {}
    reasons: dict[str, str] = {}
    starters: dict[str, Callable[[], list[str]]] = {
        "llama.cpp": lambda: _llama_command(threads),
        "vllm-cpu": lambda: _vllm_command(model),
    }
    try:
        for name, command in starters.items():
            try:
                workers[name] = Worker(command())
            except (RuntimeError, OSError, ValueError) as error:
                reasons[name] = str(error).splitlines()[0]
                print(f"{name}: {reasons[name]}", file=sys.stderr)
        yield workers, reasons
    finally:
        for worker in workers.values():
            worker.close()


def _llama_command(threads: int) -> list[str]:
    if "FOURFOLD_LLAMA_CPP" not in os.environ and find_spec("llama_cpp") is None:
        raise RuntimeError("llama-cpp-python is not installed; FOURFOLD_LLAMA_CPP may name the folder that holds it")
    from fourfold.assistant.checkpoints.weights import LANGUAGE_MODEL, fetch

    file = LANGUAGE_MODEL.path if LANGUAGE_MODEL.is_cached else fetch(LANGUAGE_MODEL, lambda *progress: None)
    return [sys.executable, "-m", "benchmarks.worker_llama", str(file), str(threads)]


def _vllm_command(model: Path) -> list[str]:
    if not VLLM_PYTHON.exists():
        raise RuntimeError("vLLM's environment is not here (make vllm-env)")
    return [str(VLLM_PYTHON), "-m", "benchmarks.worker_vllm", str(model)]
