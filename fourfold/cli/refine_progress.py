"""How a long run of `fourfold refine` tells how far it is."""

import signal
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Annotated

import typer

from fourfold.assistant.progress import OnProgress, print_progress, progress_bar


class ProgressForm(StrEnum):
    """How a long run tells on stderr how far it is."""

    BAR = "bar"
    JSON = "json"


How = Annotated[
    ProgressForm,
    typer.Option("--progress", help="On stderr: a bar for people, or JSON lines for programs."),
]


def telling(form: ProgressForm) -> AbstractContextManager[OnProgress]:
    """Tells on stderr, in this form."""
    if form is ProgressForm.BAR:
        return progress_bar()
    # A page that was started in the background (`nohup`, `&` in a script) ignores interrupts, and hands that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return progress_bar(print_progress)
