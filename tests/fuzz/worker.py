"""One target under libFuzzer, in a process that may crash, hang or run out of memory: `__main__` starts it.

    python -m tests.fuzz.worker TARGET DIRECTORY SEED SECONDS

What it did stands in `stats.json` of the directory, the inputs with which something is wrong beside it.
"""

import dataclasses
import hashlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import atheris

from tests.fuzz.mutation import Mutator
from tests.fuzz.target import MEBIBYTES, SECONDS, Finding, attempt

_COUNTED = [
    "fourfold.assistant.checkpoints",
    "fourfold.assistant.grounding",
    "fourfold.assistant.images",
    "fourfold.assistant.refine.record",
    "fourfold.assistant.refine.transfer",
    "fourfold.eval.predictions",
    "fourfold.serving.api",
    "gguf.gguf_reader",
]
"""What looks at strangers' bytes. More would take minutes to prepare."""
_WRITTEN_EVERY = 0.5
_ON_THE_CLOCK = 30
"""Seconds after which libFuzzer takes an input for one that hangs: on a machine that others use too, more than
`SECONDS`, which count computing alone."""


def main(name: str, directory: Path, seed: int, seconds: int) -> None:
    logging.disable(logging.WARNING)
    # What of these runs is counted, branch by branch; decoders in C are not.
    with atheris.instrument_imports(include=_COUNTED):
        from tests.fuzz.targets import make

        target = make(name, directory / "files")
        for data in target.seeds:  # what is imported late is not to count as the time of an input
            attempt(target, data)
    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    stats: dict[str, Any] = {"executions": 0, "taken": 0, "flipped": 0, "edits": 0, "slowest_s": 0.0, "findings": []}
    told = 0.0
    found: set[tuple[str, str]] = set()

    def one(data: bytes) -> None:
        nonlocal told
        began = time.process_time()
        taken, finding = attempt(target, data)
        stats["executions"] += 1
        stats["taken"] += taken
        stats["slowest_s"] = round(max(stats["slowest_s"], time.process_time() - began), 3)
        if finding is not None:
            note(data, finding)
        if time.monotonic() - told > _WRITTEN_EVERY:
            told = time.monotonic()
            write()

    def note(data: bytes, finding: Finding) -> None:
        key = (finding.what.partition(":")[0], finding.place)
        if key in found:
            return
        found.add(key)
        file = directory / f"{finding.kind}-{hashlib.sha256(data).hexdigest()[:16]}"
        file.write_bytes(data)
        stats["findings"].append({**dataclasses.asdict(finding), "input": str(file)})
        write()

    def write() -> None:
        (directory / "stats.json").write_text(json.dumps(stats))

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        mutator = Mutator(seed)
        changed = target.mutate(mutator, data)[:longest]
        stats["flipped"] += mutator.flipped
        stats["edits"] += mutator.edits
        return changed

    options = {
        "max_total_time": seconds,
        "seed": seed,
        "timeout": _ON_THE_CLOCK,
        "rss_limit_mb": MEBIBYTES,
        "max_len": target.longest,
        "mutate_depth": 1,  # a mutation here is several already
        "artifact_prefix": f"{directory}/",
        "print_final_stats": 1,
    }
    assert SECONDS < _ON_THE_CLOCK
    write()
    command = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(corpus)]
    atheris.Setup(command, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
