"""llama.cpp with the default model's own language model in 4 bit (Q4_1), in a process of its own.

`make peers` puts llama-cpp-python into a folder of its own, `FOLDER`; an installed one is taken where that is absent.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.figures import seconds

FOLDER = Path(__file__).parents[2] / ".peers" / "llama-cpp"


class LlamaCpp:
    """The process.

    Args:
        prompt: what is gone on with.
        threads: it may use; on a busy machine one of them alone is often faster, see `rate`.

    Raises:
        RuntimeError: llama-cpp-python is not here, or the process ended before it was ready.
        Exception: whatever it raised there.
    """

    def __init__(self, prompt: str, threads: int) -> None:
        if not FOLDER.is_dir() and find_spec("llama_cpp") is None:
            raise RuntimeError("llama-cpp-python is not here (make peers)")
        from fourfold.assistant.checkpoints.weights import LANGUAGE_MODEL, fetch

        file = LANGUAGE_MODEL.path if LANGUAGE_MODEL.is_cached else fetch(LANGUAGE_MODEL, lambda *progress: None)
        self._file, self._threads, self._prompt = file, sorted({1, threads}), prompt
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.version: str = self._process.submit(_version).result()

    def rate(self, tokens: int) -> float:
        """Tokens a second of so many, on one thread or on all: the better of both."""
        runs = [self._process.submit(_seconds, tokens, self._file, count, self._prompt) for count in self._threads]
        return tokens / min(run.result() for run in runs)

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()


def _version() -> str:
    sys.path[:0] = [str(FOLDER)] if FOLDER.is_dir() else []
    import llama_cpp

    return llama_cpp.__version__


@cache
def _loaded(file: Path, threads: int) -> Any:
    import llama_cpp

    return llama_cpp.Llama(str(file), n_ctx=2048, n_threads=threads, verbose=False)


def _seconds(tokens: int, file: Path, threads: int, prompt: str) -> float:
    """Of saying so many, after the first one."""
    model = _loaded(file, threads)
    said = model.generate(model.tokenize(prompt.encode(), add_bos=True), temp=0.0)  # does not stop at an end token
    next(said)
    return seconds(lambda: [next(said) for _ in range(tokens)])
