"""Faults at random: processes killed while they work, disks that fill, files that cannot be written, clocks that jump,
endpoints that break off. After each fault nothing may be lost or doubled, and the next start needs no hand.

    python -m tests.chaos --minutes 30 --seed 1 --out out/chaos

Rounds of all kinds take turns until the time is over. What a round draws follows from seed, kind and number, so
`--kind NAME --round N` runs one again; `--rounds N` runs N of every kind, whatever the clock says. A kill is drawn
as a number of file operations, which repeats exactly, or in milliseconds, which repeats as exactly as the machine does.
Every round is a line of `rounds.jsonl`; the counts are in `summary.json`. The exit code is 1 where a problem was found.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from fourfold.assistant.files import write_text
from fourfold.eval.report.render import markdown_table
from tests.chaos.clock import ClockJumps
from tests.chaos.disk import DiskFaults, ForeignFiles
from tests.chaos.endpoints import EndpointFaults
from tests.chaos.evaluation import EvaluationKills
from tests.chaos.page import PageKills, PageWithServer
from tests.chaos.refinement import RefinementKills
from tests.chaos.rounds import Kind, Outcome
from tests.chaos.server import ServerKills
from tests.chaos.stores import StoreKills
from tests.chaos.training import TrainingKills
from tests.pages import TRUST, replace_part


def all_kinds(out: Path) -> list[Kind]:
    """One of each; `out` is for what they share between rounds."""
    shared = out / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    return [
        StoreKills(),
        PageKills(),
        EvaluationKills(),
        ServerKills(shared),
        RefinementKills(shared),
        TrainingKills(shared),
        PageWithServer(shared),
        DiskFaults(shared),
        ForeignFiles(),
        ClockJumps(shared),
        EndpointFaults(),
    ]


_WORK = (
    *("fourfold.cli.main", "fourfold.assistant.training.trainer", "fourfold.assistant.refine.training.learn"),
    *("fourfold.eval.tasks.benchmark_run", "fourfold.serving.api.app", "fourfold.serving.engine.engine"),
    *("matplotlib.pyplot", "tests.ui.test_page"),
)
"""What commands import that work; none of it starts a thread, which a fork would not take along."""


def run(kind: Kind, seed: int, number: int, out: Path) -> Outcome:
    """One round; its folder is kept where it found a problem."""
    folder = out / f"{kind.name}-{number}"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed in it
    folder.mkdir(parents=True)
    try:
        outcome = kind.round(random.Random(f"{seed} {kind.name} {number}"), folder)
    except Exception:
        outcome = Outcome(problems=[traceback.format_exc()[-1500:]])
    if not outcome.problems:
        shutil.rmtree(folder)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a folder; a run that is there is gone on with")
    parser.add_argument("--kind", action="append", help="only this kind; may be given often")
    parser.add_argument("--round", type=int, help="only the round of this number")
    parser.add_argument("--document", action="store_true", help="write the table of docs/trust.md")
    parser.add_argument("--rounds", type=int, help="so many rounds of each kind, however long they take")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given.out.mkdir(parents=True, exist_ok=True)
    kinds = all_kinds(given.out.resolve())
    if given.kind:
        kinds = [kind for kind in kinds if kind.name in given.kind]
        if not kinds:
            parser.error(f"there are: {', '.join(kind.name for kind in all_kinds(given.out))}")
    if any(kind.name != StoreKills.name for kind in kinds):
        for name in _WORK:
            importlib.import_module(name)
    log = given.out / "rounds.jsonl"
    before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    number = 1 + max((line["round"] for line in before if line["seed"] == given.seed), default=-1)
    deadline, last = time.monotonic() + 60 * given.minutes, None
    if given.round is not None:
        number, last = given.round, given.round + 1
    elif given.rounds is not None:
        last = number + given.rounds
    while (number < last) if last is not None else (time.monotonic() < deadline):
        for kind in kinds:
            if last is None and time.monotonic() > deadline:
                break
            began = time.monotonic()
            outcome = run(kind, given.seed, number, given.out.resolve())
            line: dict[str, Any] = {"seed": given.seed, "kind": kind.name, "round": number}
            line |= {"kills": outcome.kills, "faults": outcome.faults, "problems": outcome.problems}
            line["seconds"] = round(time.monotonic() - began, 2)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        number += 1
    found = summarise(log)
    if given.document:
        replace_part(TRUST, "chaos", table(found))
    sys.exit(1 if found["problems"] else 0)


def table(found: dict[str, Any]) -> list[str]:
    """Markdown of a summary."""
    rows = [[f"killed: {name}", number] for name, number in sorted(found["kills_by_kind"].items())]
    rows += [[name, number] for name, number in sorted(found["faults_by_kind"].items())]
    seeds = ", ".join(map(str, found["seeds"]))
    return [
        f"{found['kills']:,} kills and {found['faults']:,} other faults in {found['rounds']} rounds, "
        f"{found['minutes']:.0f} minutes, seed {seeds}; problems left: {len(found['problems'])}.",
        "",
        *markdown_table(["fault", "times"], rows, numbers=[1]),
    ]


def summarise(log: Path) -> dict[str, Any]:
    """Counts of all rounds in a log, written beside it."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    kills: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for line in lines:
        kills.update(line["kills"])
        faults.update(line["faults"])
    found = {
        "rounds": len(lines),
        "seeds": sorted({line["seed"] for line in lines}),
        "minutes": round(sum(line["seconds"] for line in lines) / 60, 1),
        "kills": kills.total(),
        "kills_by_kind": dict(kills),
        "faults": faults.total(),
        "faults_by_kind": dict(faults),
        "problems": [{**line, "problems": line["problems"]} for line in lines if line["problems"]],
    }
    write_text(log.with_name("summary.json"), json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
