"""The server as people start it, in a process of its own, and what can be seen of it from outside."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

ADMIN_KEY, CLIENT_KEY = "soak-admin-key-0123456789", "soak-client-key-0123456789"
_LISTENS = re.compile(r"^(\S+) listens on (http://\S+)")
_GAUGES = ("fourfold_requests_running", "fourfold_requests_waiting", "fourfold_http_in_flight")


class StartedServer:
    """`fourfold serve --memory` on one thread, with its stores and temporary files below one folder.

    Args:
        out: of `store/`, `tmp/` and `server.log`.
        model: checkpoint directory; None for the default model.

    Attributes:
        url: of its API, with /v1.
        model: what it calls its model.

    Raises:
        RuntimeError: it ended before it listened.
    """

    def __init__(self, out: Path, model: str | None) -> None:
        self.out, self.store, self.temporary = out, out / "store", out / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fourfold.cli", "serve", "--port", "0", "--memory", "--store", str(self.store)]
        if model:
            command += ["--model", model]
        environment = {
            **os.environ,
            "FOURFOLD_ADMIN_KEY": ADMIN_KEY,
            "FOURFOLD_API_KEYS": CLIENT_KEY,
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
        }
        self._log = (out / "server.log").open("w", encoding="utf-8")
        self.process = psutil.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=self._log, errors="replace"
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := _LISTENS.match(line):
                self.model, self.url = found.groups()
                break
        else:
            raise RuntimeError(f"the server did not start, see {out / 'server.log'}")
        self.processor_seconds_at_start = self._processor_seconds()

    def sample(self) -> dict[str, Any]:
        """Memory (bytes), open files, threads, children, temporary files, sizes of the stores (bytes), gauges."""
        process = self.process
        with process.oneshot():
            memory = process.memory_info()
            told: dict[str, Any] = {
                "resident": memory.rss,
                "open_files": process.num_fds(),
                "threads": process.num_threads(),
                "processor_seconds": round(self._processor_seconds() - self.processor_seconds_at_start, 2),
            }
        children = process.children(recursive=True)
        told["children"] = len(children)
        told["children_resident"] = 0
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                told["children_resident"] += child.memory_info().rss
        told["temporary_files"] = sum(len(files) for _, _, files in os.walk(self.temporary))
        told["store"] = _bytes(self.store)
        told["history"] = _bytes(self.out / "history")
        told["log"] = (self.out / "server.log").stat().st_size
        page = httpx.get(self.url.removesuffix("/v1") + "/metrics", headers=bearer(ADMIN_KEY), timeout=60).text
        for line in page.splitlines():
            name, _, value = line.rpartition(" ")
            if name in _GAUGES:
                told[name.removeprefix("fourfold_")] = float(value)
        return told

    def stop(self) -> int | None:
        """End it in order; its exit code, None where it had to be killed."""
        self.process.terminate()
        try:
            code = self.process.wait(60)
        except psutil.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = None
        self._log.close()
        return code

    def _processor_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


def bearer(key: str) -> dict[str, str]:
    """A request's header with an API key."""
    return {"authorization": f"Bearer {key}"}


def wait_until(deadline: float, stop: Any) -> bool:
    """Sleep until a moment of `time.monotonic`, or until `stop` is set; whether it is."""
    return stop.wait(max(0.0, deadline - time.monotonic()))


def _bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*") if directory.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # a file of SQLite's, or one that is being replaced
            total += path.stat().st_size if path.is_file() else 0
    return total
