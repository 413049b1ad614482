"""`python -m tests.fuzz`: the targets one after another, each in processes of its own, and what was found.

make fuzz MINUTES=10 TARGET=images
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.target import MEBIBYTES, SECONDS
from tests.fuzz.targets import TARGETS

_ENDED = {70: "hang", 71: "memory"}
"""libFuzzer's own exit codes; any other is a crash."""
_SLACK = 300  # seconds that a worker may take to begin and to end
_ADDED = ("executions", "taken", "flipped", "edits")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may repeat")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same inputs")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="inputs that were found, and summary.json")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    summary: dict[str, Any] = {
        "seed": options.seed,
        "bounds": {"seconds": SECONDS, "mebibytes": MEBIBYTES},
        "targets": {},
    }
    for name in names:
        directory = options.out.absolute() / name
        shutil.rmtree(directory, ignore_errors=True)
        told = fuzz(name, directory, options.seed, 60 * options.minutes / len(names))
        summary["targets"][name] = told
        shutil.rmtree(directory / "files", ignore_errors=True)
        (options.out / "summary.json").write_text(json.dumps(summary, indent=1))
        print(
            f"{name}: {told['executions']:,} inputs in {told['seconds']:.0f} s, {told['taken']:,} of them taken, "
            f"{told['flipped']:,} bytes flipped, {told['edits']:,} values edited; slowest {told['slowest_s']:.2f} s, "
            f"at most {told['peak_rss_mb']} MiB; {len(told['findings'])} findings",
            flush=True,
        )
        for finding in told["findings"]:
            print(f"  {finding['kind']}: {finding['what']} at {finding['place']}\n    {finding['input']}", flush=True)
    return 1 if any(told["findings"] for told in summary["targets"].values()) else 0


def fuzz(name: str, directory: Path, seed: int, seconds: float) -> dict[str, Any]:
    """Fuzz one target for that long, whatever ends its process meanwhile.

    Returns:
        Figures and findings, as `summary.json` has them.

    Raises:
        RuntimeError: the target itself cannot be made.
    """
    told: dict[str, Any] = {**dict.fromkeys(_ADDED, 0), "slowest_s": 0.0, "peak_rss_mb": 0, "edges": 0, "findings": []}
    began, runs = time.monotonic(), 0
    while (left := seconds - (time.monotonic() - began)) > 1 or not runs:
        directory.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.worker",
            name,
            str(directory),
            str(seed + runs),
            str(max(int(left), 1)),
        ]
        (directory / "stats.json").unlink(missing_ok=True)
        with (directory / "libfuzzer.log").open("w+", encoding="utf-8", errors="replace") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL)
            try:
                code = process.wait(left + _SLACK)
            except subprocess.TimeoutExpired:
                code = 70
            finally:
                process.kill()
                process.wait()
            log.seek(0)
            said = log.read()
        if not (directory / "stats.json").exists():
            raise RuntimeError(f"the target {name} cannot be made:\n{said[-3000:]}")
        stats = json.loads((directory / "stats.json").read_text())
        for key in _ADDED:
            told[key] += stats[key]
        told["slowest_s"] = max(told["slowest_s"], stats["slowest_s"])
        told["peak_rss_mb"] = max([told["peak_rss_mb"], *map(int, re.findall(r"rss: (\d+)Mb", said))])
        told["edges"] = max([told["edges"], *map(int, re.findall(r"cov: (\d+)", said))])
        known = {(finding["what"].partition(":")[0], finding["place"]) for finding in told["findings"]}
        told["findings"] += [
            one for one in stats["findings"] if (one["what"].partition(":")[0], one["place"]) not in known
        ]
        if code != 0:
            written = re.search(r"Test unit written to (\S+)", said)
            finding = {
                "kind": _ENDED.get(code, "crash"),
                "what": _last_words(said),
                "place": f"exit code {code}",
                "input": written[1] if written else "(libFuzzer kept no input)",
            }
            if finding not in told["findings"]:
                told["findings"].append(finding)
        runs += 1
    return {"seconds": round(time.monotonic() - began, 1), "processes": runs, **told}


def _last_words(said: str) -> str:
    lines = [line for line in said.splitlines() if "ERROR: libFuzzer" in line or "Fatal Python error" in line]
    last = (lines or said.splitlines() or ["nothing was said"])[-1]
    return re.sub(r"^==\d+== ", "", last.strip())[:300]


if __name__ == "__main__":
    sys.exit(main())
