"""llama.cpp with the default model's own language model in 4 bit (Q4_1), in a process of its own.

    python -m benchmarks.llama FILE.gguf THREADS PROMPT

reads lines with numbers of tokens and answers with the seconds of saying them. `FOURFOLD_LLAMA_CPP` names the folder
where `pip install --target` put llama-cpp-python, where it is not installed.
"""

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).parents[1]


class LlamaCpp:
    """The process.

    Args:
        prompt: what is gone on with.
        threads: it may use.

    Raises:
        RuntimeError: llama-cpp-python is not here, or the process ended before it was ready.
    """

    def __init__(self, prompt: str, threads: int) -> None:
        if "FOURFOLD_LLAMA_CPP" not in os.environ and find_spec("llama_cpp") is None:
            raise RuntimeError("llama-cpp-python is not installed, and FOURFOLD_LLAMA_CPP names no folder of it")
        from fourfold.assistant.checkpoints.weights import LANGUAGE_MODEL, fetch

        file = LANGUAGE_MODEL.path if LANGUAGE_MODEL.is_cached else fetch(LANGUAGE_MODEL, lambda *progress: None)
        command = [sys.executable, "-m", "benchmarks.llama", str(file), str(threads), prompt]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, cwd=_ROOT
        )
        self.version = self._read()

    def rate(self, tokens: int) -> float:
        """Tokens a second of so many."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        return tokens / float(self._read())

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        self._said.close()

    def _read(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line.strip()
        code = self._process.wait()
        self._said.seek(0)
        last = next((line for line in reversed(self._said.read().splitlines()) if line.strip()), "")
        raise RuntimeError(f"llama.cpp ended with {code}: {last.strip()[:200]}")


def main() -> None:
    sys.path[:0] = [os.environ["FOURFOLD_LLAMA_CPP"]] if "FOURFOLD_LLAMA_CPP" in os.environ else []
    import llama_cpp

    model = llama_cpp.Llama(sys.argv[1], n_ctx=2048, n_threads=int(sys.argv[2]), verbose=False)
    prompt = model.tokenize(sys.argv[3].encode(), add_bos=True)
    print(llama_cpp.__version__, flush=True)
    for line in sys.stdin:
        tokens = model.generate(prompt, temp=0.0)  # does not stop at an end token
        next(tokens)
        started = time.perf_counter()
        for _ in range(int(line)):
            next(tokens)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
