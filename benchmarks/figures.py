"""A measured figure: all its runs, their middle, and the limit that the machine sets."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Figure:
    """One thing that was measured.

    Attributes:
        unit: "s", "tokens/s", "requests/s", "questions/s", "samples/s", "MiB", "GB/s" or "GFLOP/s".
        runs: in the order in which they were taken; empty where there is no figure.
        limit: the best that this machine could do, in the same unit; None where there is no such thing.
        limit_is: how that is known.
        reason: why there is no figure.
    """

    unit: str
    runs: list[float] = field(default_factory=list)
    limit: float | None = None
    limit_is: str = ""
    reason: str | None = None

    @property
    def value(self) -> float | None:
        """The median of the runs."""
        return statistics.median(self.runs) if self.runs else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value}


def seconds(work: Callable[[], object]) -> float:
    """Of the wall clock, that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def reason(error: Exception) -> str:
    """Why there is no figure, in a line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def ratio(part: Figure | None, whole: Figure | None) -> float | None:
    """The quotient of two figures that were taken in turns: the median of the quotients of their rounds."""
    if part is None or whole is None or not part.runs or not whole.runs:
        return None
    return statistics.median(ours / theirs for ours, theirs in zip(part.runs, whole.runs, strict=False))


def in_turns(contestants: Mapping[str, Callable[[], float]], rounds: int, unit: str) -> dict[str, Figure]:
    """Let everybody run once, then everybody again: what disturbs the machine for a while disturbs all of them.

    Args:
        contestants: by name; each returns one run's figure. One that raises is out, and its reason is kept.
        rounds: runs of each.
        unit: of what they return.
    """
    figures = {name: Figure(unit) for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            if figures[name].reason is not None:
                continue
            try:
                figures[name].runs.append(run())
            except Exception as error:  # a peer that fails must not cost the others' figures
                figures[name].reason = reason(error)
                figures[name].runs.clear()
                print(f"{name}: {figures[name].reason}", file=sys.stderr)
    return figures
