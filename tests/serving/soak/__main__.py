"""Hours of load on the default model: four kinds of clients, adapters that change, corrections written meanwhile.

    python -m tests.serving.soak --hours 1 --out out/soak

Every request, change and sample (every 10 s) is a line of `requests.jsonl`, `events.jsonl` and `samples.jsonl` in the
folder, written as it happens; the summary is `summary.json`, and a picture of it `soak.png`. `--summary` makes both
anew from the lines, also of a run that was killed. The exit code is 1 where a request ended as it must not.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fourfold.assistant.files import write_text
from tests.pages import TRUST, replace_part
from tests.serving.soak.clients import Surroundings, Told, all_clients
from tests.serving.soak.server import StartedServer
from tests.serving.soak.summary import expected, plot, summarise, table
from tests.serving.soak.teaching import ADAPTER_EVERY, TEACH_EVERY, Operator, Teacher, make_adapters

SAMPLE_EVERY = 10.0  # seconds


class Lines:
    """JSONL files in a folder; each line has the seconds since the start as `at`."""

    def __init__(self, out: Path) -> None:
        self._out, self._began, self._lock = out, time.monotonic(), threading.Lock()

    def write(self, name: str, **fields: Any) -> None:
        line = json.dumps({"at": round(time.monotonic() - self._began, 2), **fields}, ensure_ascii=False)
        with self._lock, (self._out / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def soak(out: Path, seconds: float, model: str | None, seed: int) -> None:
    """Run it; lines and logs go to `out`, which must not be there yet.

    Raises:
        RuntimeError: the server did not start.
    """
    out.mkdir(parents=True)
    (out / "history").mkdir()
    revisions = make_adapters(out / "store", model)
    server = StartedServer(out, model)
    write_text(out / "about.json", json.dumps(_about(server, seed)) + "\n")
    lines, stop = Lines(out), threading.Event()

    def told(one: Told) -> None:
        lines.write("requests", **asdict(one))

    def happened(**fields: Any) -> None:
        lines.write("events", **fields)

    around = Surroundings(server.url, server.model, out / "history", stop, told)
    workers: list[threading.Thread] = [
        *all_clients(around, seed),
        Operator(around, server.store, revisions, happened, ADAPTER_EVERY),
        Teacher(around, server.store, seed, happened, TEACH_EVERY),
    ]
    try:
        for worker in workers:
            worker.start()
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            lines.write("samples", **server.sample())
            if server.process.poll() is not None:
                happened(what="the server ended", trouble=f"exit code {server.process.returncode}")
                break
            stop.wait(SAMPLE_EVERY)
        stop.set()
        for worker in workers:
            worker.join(120)
        if server.process.poll() is None:
            time.sleep(2)  # what was left is given up
            lines.write("samples", **server.sample())
    finally:
        stop.set()
        code = server.stop()
    left = sum(len(files) for _, _, files in os.walk(server.temporary))
    trouble = f"exit code {code}, {left} temporary files left" if code or left else ""
    happened(what="ended in order", exit_code=code, temporary_files_left=left, trouble=trouble)


def _about(server: StartedServer, seed: int) -> dict[str, Any]:
    root = Path(__file__).parents[3]
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    return {
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": git.stdout.strip() or None,
        "model": server.model,
        "seed": seed,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--document", action="store_true", help="write the table and the picture of docs/trust.md")
    parser.add_argument("--summary", action="store_true", help="of a run that is there already")
    given = parser.parse_args()
    if not given.summary:
        if given.out.exists():
            parser.error(f"{given.out} is there already; name another folder, or --summary")
        soak(given.out, given.hours * 3600, given.model, given.seed)
    found = summarise(given.out)
    write_text(given.out / "summary.json", json.dumps(found, indent=1) + "\n")
    plot(given.out, found, given.out / "soak.png")
    if given.document:
        replace_part(TRUST, "soak", table(found))
        plot(given.out, found, TRUST.parent / "images" / "soak.png")
    print(json.dumps({name: value for name, value in found.items() if name != "windows"}, indent=1))
    good = not found["server_errors"] and not found["event_troubles"] and all(map(expected, found["not_expected"]))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
