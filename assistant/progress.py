"""How far a long run is: one event, told to a callback, drawn as a bar for people or written as lines for programs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Progress:
    """How far one stage of a run is.

    Attributes:
        stage: what is done now, in words for people; a new stage begins a new bar.
        done: of `total`.
        total: None where nobody knows it yet.
        loss: of the training step that was just done; None elsewhere.
    """

    stage: str
    done: int = 0
    total: int | None = None
    loss: float | None = None


OnProgress = Callable[[Progress], None]


@contextmanager
def progress_bar(instead: OnProgress | None = None) -> Iterator[OnProgress]:
    """A callback that draws a bar for each stage on stderr, so that stdout stays for results; or the one that is given.

    Nothing is drawn until something is told.
    """
    if instead is not None:
        yield instead
        return
    import rich.progress
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = rich.progress.Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def tell(event: Progress) -> None:
        if not tasks:
            bars.start()
        if event.stage not in tasks:
            for earlier, task in tasks.items():
                if bars.tasks[task].total is None:  # its end is the beginning of this one
                    bars.update(task, description=earlier, total=1, completed=1)
            tasks[event.stage] = bars.add_task(event.stage, total=event.total)
        loss = "" if event.loss is None else f", loss {event.loss:.2f}"
        bars.update(tasks[event.stage], description=event.stage + loss, total=event.total, completed=event.done)

    try:
        yield tell
    finally:
        if tasks:
            bars.stop()


def print_progress(event: Progress) -> None:
    """One line on stderr that `read_progress` reads: `{"progress": {"stage": ..., "done": 3, "total": 40, ...}}`."""
    print(json.dumps({"progress": asdict(event)}, ensure_ascii=False), file=sys.stderr, flush=True)


def read_progress(line: str) -> Progress | None:
    """The event of a line that `print_progress` wrote; None for any other line, which is for people."""
    try:
        return Progress(**json.loads(line)["progress"])
    except (ValueError, KeyError, TypeError):
        return None
