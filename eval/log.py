"""The log of answers: one JSON line a sample, safe against kill -9, so that nothing is ever asked twice."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fourfold.prompts.errors import UserError


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """Sixteen hex digits that change with anything that could change an answer."""
    text = json.dumps(configuration, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class AnswerLog:
    """Appends answers to `path` and knows which samples have one under this configuration.

    A line that was cut off by a kill is removed on opening; answers of other configurations stay and are not used; a
    sample whose asking failed is asked again. Every line is on the disk before `add` returns.

    Args:
        path: of the log; made where it is not there.
        configuration: everything that an answer depends on but the sample itself.
        others: logs of processes that share the work, read only.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], others: Iterable[Path] = ()) -> None:
        self.path = path
        self.hash = configuration_hash(configuration)
        self.done: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with path.open("r+b") as file:
                    file.truncate(whole)
        for log in dict.fromkeys((path, *others)):
            if log.exists():
                self.read(log)
        self._file = path.open("ab")

    def read(self, path: Path) -> None:
        """Take over the answers of a log."""
        content = path.read_bytes()
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                record = json.loads(line)
                sample, configuration = record["sample"], record["configuration"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path}, line {number} is no answer record; move the file away to start anew"
                ) from None
            if configuration == self.hash and "error" not in record:
                self.done[sample] = record

    def add(self, sample: str, **fields: Any) -> dict[str, Any]:
        """Write an answer down for good; returns its record."""
        record = {"sample": sample, "configuration": self.hash, **fields}
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[sample] = record
        return record

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either the old or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def model_fingerprint(directory: Path) -> str:
    """Hash of what a checkpoint's answers depend on: configurations, tokenizer, templates, weights; sixteen hex digits.

    `bridge.json` tells where the weights come from and is left out: the same model with a longer story is the same
    model.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name != "bridge.json" and path.suffix in (".safetensors", ".json", ".jinja", ".bin", ".model"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
