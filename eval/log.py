"""The log of answers: one JSON line a sample, safe against kill -9, so that nothing is ever asked twice."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fourfold.assistant.files import write_text
from fourfold.eval.model import Output, world_size
from fourfold.prompts.errors import UserError


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change with anything that could change an answer."""
    text = json.dumps(configuration, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class EvalLog(AbstractContextManager["EvalLog"]):
    """Appends answers to `path` and knows which samples have one under this configuration.

    A line that was cut off by a kill is removed on opening; answers of other configurations stay and are not used; a
    sample whose asking failed is asked again. Every line is on the disk before `add` returns.

    The processes of `accelerate launch` share a log: each writes a file of its own (`answers-0.jsonl`, ...) beside
    `path` (`answers.jsonl`), and all of these are read, by any number of processes.

    Args:
        path: of the log; made where it is not there.
        configuration: everything that an answer depends on but the sample itself.

    Attributes:
        done: sample id -> its answer.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any]) -> None:
        self.path = path
        self.hash = configuration_hash(configuration)
        self.done: dict[str, Output] = {}
        if world_size() > 1:
            self.path = path.with_name(f"{path.stem}-{os.environ['RANK']}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.path, whole)
        self._pattern = f"{path.stem}-*{path.suffix}"
        self._main = path
        self.refresh()
        self._file = self.path.open("ab")

    def refresh(self) -> None:
        """Read what is there, what other processes wrote too."""
        for log in (self._main, *sorted(self._main.parent.glob(self._pattern))):
            content = log.read_bytes() if log.exists() else b""
            for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
                try:
                    record = json.loads(line)
                    sample, configuration = record["sample"], record["configuration"]
                except (ValueError, KeyError, TypeError):
                    message = f"{log}, line {number} is no answer record; move the file away to start anew"
                    raise UserError(message) from None
                if configuration == self.hash and "error" not in record:
                    self.done[sample] = Output.from_record(record)

    def add(self, sample: str, output: Output) -> None:
        """Write an answer down for good."""
        record = {"sample": sample, "configuration": self.hash, **output.to_record()}
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[sample] = output

    def __exit__(self, *_: object) -> None:
        self._file.close()


def claim(out: Path, configuration: Mapping[str, Any]) -> None:
    """Write `run.json`, or make sure that the one there is of this run.

    Raises:
        UserError: the folder holds another run.
    """
    path = out / "run.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["configuration"]
        for name, now in configuration.items():
            if (then := before.get(name)) != now:
                raise UserError(f"{out} holds another run ({name} {then!r}, now {now!r}); give another --out")
        return
    content = {"configuration": configuration, "begun": datetime.now(UTC).isoformat(timespec="seconds")}
    write_text(path, json.dumps(content, indent=1) + "\n")
