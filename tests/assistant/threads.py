"""Several writers at once."""

import threading
from collections.abc import Callable


def run_in_threads(write: Callable[[int], object], count: int = 6) -> None:
    """Call `write` with 0, 1, ... `count` - 1, each in a thread of its own; what one of them raises fails the test."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            write(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
