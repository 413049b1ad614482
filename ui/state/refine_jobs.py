"""`fourfold refine ...` as a child of the page: it goes on while the page's script comes and goes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourfold.assistant.progress import Progress, read_progress
from fourfold.ui.state.local_server import complaint

_TELL_PROGRESS = ("train", "gate")
_PACE = 5.0  # seconds after which a stage has one


class Job:
    """One run of a verb of `fourfold refine`: "train", "gate", ..."""

    def __init__(self, verb: str, options: Sequence[str], store: Path, admin_key: str | None = None) -> None:
        self.verb = verb
        self.began = time.time()
        self.progress = Progress("starting")
        self._stage_began = time.monotonic()
        self.result: dict[str, Any] | None = None  # the object that it printed at its end
        self.error: str | None = None  # why it failed, in one line; None also where it was stopped
        self.done = False
        self.stopped = False  # by somebody, before it came to its end
        command = [sys.executable, "-P", "-m", "fourfold", "refine", verb, *options, "--store", str(store), "--json"]
        if verb in _TELL_PROGRESS:
            command += ["--progress", "json"]
        environment = {name: value for name, value in os.environ.items() if name != "FOURFOLD_ADMIN_KEY"}
        if admin_key:
            environment["FOURFOLD_ADMIN_KEY"] = admin_key  # arguments can be read by everybody
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe would be full before a long answer is read)
        self._process = subprocess.Popen(
            command, env=environment, text=True, errors="replace", stdout=self._answer, stderr=subprocess.PIPE
        )
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def part(self) -> float | None:
        """How much of its present stage is done, 0..1; None where it does not say."""
        return min(self.progress.done / self.progress.total, 1.0) if self.progress.total else None

    @property
    def left(self) -> float | None:
        """Seconds that its present stage will take at the pace that it had so far; None while there is no telling."""
        seconds = time.monotonic() - self._stage_began
        done, total = self.progress.done, self.progress.total
        return seconds * (total - done) / done if total and done and seconds > _PACE else None

    def stop(self) -> None:
        """Interrupt it as Ctrl-C would; a training can be gone on with."""
        if not self.done:
            self.stopped = True
            self._process.send_signal(signal.SIGINT)

    def _watch(self) -> None:
        assert self._process.stderr is not None
        said: list[str] = []
        for line in self._process.stderr:
            if event := read_progress(line):
                if event.stage != self.progress.stage:
                    self._stage_began = time.monotonic()
                self.progress = event
            else:
                said = [*said[-40:], line.rstrip()]
        self._process.wait()
        self._answer.seek(0)
        try:
            self.result = json.loads(self._answer.read())
        except ValueError:
            self.error = None if self.stopped else complaint(said)
        self.done = True


_last: Job | None = None
_lock = threading.Lock()


def start(verb: str, options: Sequence[str], store: Path, admin_key: str | None = None) -> Job:
    """Run a verb; while one is running, that one is returned and nothing is started."""
    global _last
    with _lock:
        if _last is None or _last.done:
            _last = Job(verb, options, store, admin_key)
        return _last


def last() -> Job | None:
    """The job that runs, or ran last in this process."""
    return _last
