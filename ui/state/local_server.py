"""`fourfold serve` as a child of the page: started, watched, started again with other options, ended."""

import atexit
import collections
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal

from fourfold.serving.api.server import LIFELINE

ServerState = Literal["stopped", "starting", "ready", "failed"]

CURRENT = "current"
"""The adapter that was promoted, where one was."""

_LISTENS = re.compile(r"listens on (http://\S+)")
_BAR = re.compile(r"\d%\|")  # of a library's progress, which says nothing about a failure
_ENDING = 25.0  # seconds; the server itself gives running answers 20


def complaint(said: Sequence[str]) -> str:
    """Why a child failed, by the lines that it wrote to stderr: in its own words where it has some."""
    own = [line.removeprefix("fourfold: ") for line in said if line.startswith("fourfold: ")]
    lines = own or [line for line in said if line.strip() and not _BAR.search(line)]
    return lines[-1] if lines else "it ended without a word"


class LocalServer:
    """A server on a free loopback port with a key of its own, so that nobody else on this machine can use it.

    It ends with the process that started it, also where that one is killed.

    Args:
        model: checkpoint directory; None for the default model.
        quantization: "4bit", "8bit" or None.
        adapter: directory of a LoRA adapter to answer with, "current" for the one that was promoted, or None.
        store: directory of the corrections that it remembers; None for none.
    """

    def __init__(
        self,
        model: str | None = None,
        quantization: str | None = None,
        adapter: str | None = None,
        store: Path | None = None,
    ) -> None:
        self.store = store
        self.model = model
        self.quantization = quantization
        self.adapter = adapter
        self.url = ""  # of its API, with /v1; "" until it is ready
        self.key = secrets.token_hex(24)
        self._process: subprocess.Popen[str] | None = None
        self._said: collections.deque[str] = collections.deque(maxlen=30)
        self._lock = threading.RLock()
        self._stopping = False
        atexit.register(self.stop)

    @property
    def state(self) -> ServerState:
        process = self._process
        if process is None:
            return "stopped"
        if process.poll() is not None:
            return "failed"
        return "ready" if self.url else "starting"

    @property
    def complaint(self) -> str:
        """Why it failed, in one line."""
        return complaint(list(self._said))

    def start(self) -> None:
        """Start it and return at once; `state` tells when it is ready."""
        with self._lock:
            if self.state in ("starting", "ready"):
                return
            self.url, self._stopping = "", False
            self._said.clear()
            command = [sys.executable, "-P", "-m", "fourfold", "serve", "--port", "0"]
            for option in ("model", "quantization", "adapter"):
                if value := getattr(self, option):
                    command += [f"--{option}", str(value)]
            if self.store is not None:
                command += ["--memory", "--store", str(self.store)]
            # By the environment: the arguments of a process can be read by everybody.
            environment = {**os.environ, "FOURFOLD_ADMIN_KEY": self.key, LIFELINE: "stdin"}
            process = subprocess.Popen(
                command,
                env=environment,
                text=True,
                errors="replace",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            self._process = process
            for stream in (process.stdout, process.stderr):
                threading.Thread(target=self._listen, args=(process, stream), daemon=True).start()

    def restart(self, model: str | None, quantization: str | None, adapter: str | None) -> None:
        with self._lock:
            self.stop()
            self.model, self.quantization, self.adapter = model, quantization, adapter
            self.start()

    def stop(self) -> None:
        """End it: running answers are given their time, then it is killed."""
        with self._lock:
            process, self._process = self._process, None
            if process is None or process.poll() is not None:
                return
            self._stopping = True
            process.terminate()
            try:
                process.wait(_ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _listen(self, process: "subprocess.Popen[str]", stream: "IO[str] | None") -> None:
        assert stream is not None
        for line in stream:
            line = line.rstrip()
            if stream is process.stdout:
                if (found := _LISTENS.search(line)) and process is self._process:
                    self.url = found.group(1)
                continue
            self._said.append(line)
            if not self._stopping:
                print(line, file=sys.stderr, flush=True)
