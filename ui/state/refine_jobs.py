"""`fourfold refine ...` as a child of the page: it goes on while the page's script comes and goes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PART = re.compile(r"(\d{1,3})%")
_COUNT = re.compile(r"(\d+)/(\d+)")


class Job:
    """One run of a verb of `fourfold refine`.

    Attributes:
        verb: "train", "gate", ...
        began: seconds since 1970.
        doing: the last line that it said, for people.
        part: how much is done, 0..1; None where it does not say.
        result: the object that it printed at its end.
        error: why it failed, in one line.
        done: whether it has ended.
        stopped: whether somebody stopped it.
    """

    def __init__(self, verb: str, options: Sequence[str], store: Path, admin_key: str | None) -> None:
        self.verb = verb
        self.began = time.time()
        self.doing = "Starting"
        self.part: float | None = None
        self.result: dict[str, Any] | None = None
        self.error: str | None = None
        self.done = False
        self.stopped = False
        command = [sys.executable, "-m", "fourfold.cli", "refine", verb, *options, "--store", str(store), "--json"]
        # rich draws its progress bars for terminals only, unless it is told that this is one.
        environment = {**os.environ, "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": "120", "TERM": "xterm"}
        if admin_key:
            environment["FOURFOLD_ADMIN_KEY"] = admin_key  # arguments can be read by everybody
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._said: list[str] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Interrupt it as Ctrl-C would; a training can be gone on with."""
        if not self.done:
            self.stopped = True
            self._process.send_signal(signal.SIGINT)

    def _watch(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        answer = self._process.stdout.read()
        code = self._process.wait()
        listener.join(5)
        try:
            self.result = json.loads(answer)
        except ValueError:
            own = [line.removeprefix("fourfold: ") for line in self._said if line.startswith("fourfold: ")]
            if self.stopped:
                self.error = "Stopped. The same step goes on from here."
            else:
                self.error = own[-1] if own else (self._said[-1] if self._said else f"it ended with code {code}")
        self.done = True

    def _listen(self) -> None:
        assert self._process.stderr is not None
        rest = ""
        while data := os.read(self._process.stderr.fileno(), 4096):
            *lines, rest = re.split(r"[\r\n]", rest + data.decode("utf-8", "replace"))
            for line in lines:
                self._hear(_ANSI.sub("", line).strip())
        self._hear(_ANSI.sub("", rest).strip())

    def _hear(self, line: str) -> None:
        if not line:
            return
        self._said = [*self._said[-40:], line]
        self.doing = re.split(r"\s[━╸╺]", line)[0].strip() or self.doing
        if found := _PART.search(line):
            self.part = min(int(found.group(1)) / 100, 1.0)
        elif (found := _COUNT.search(line)) and int(found.group(2)):
            self.part = min(int(found.group(1)) / int(found.group(2)), 1.0)


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
