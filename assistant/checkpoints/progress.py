"""Progress of downloads and of assembling, told to whoever started them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ProgressCallback = Callable[[str, int, int], None]
"""Called with what is going on, how far it is, and the whole; bytes for downloads, steps otherwise."""


@contextmanager
def progress_on_stderr() -> Iterator[ProgressCallback]:
    """A callback that draws one bar for each thing on stderr; nothing is drawn until something is told."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    bars = Progress(*columns, TimeElapsedColumn(), console=console)
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done)

    try:
        yield tell
    finally:
        if tasks:
            bars.stop()
