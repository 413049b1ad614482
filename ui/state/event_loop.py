"""One event loop in one thread, where the page's answers are fetched while its script comes and goes."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="answers", daemon=True).start()
    return loop


def begin(work: Coroutine[Any, Any, None]) -> "Future[None]":
    """Start a coroutine; cancelling what is returned cancels it at its next await.

    One loop for all of them, because HTTP clients that LangChain shares belong to the loop that used them first.
    """
    return asyncio.run_coroutine_threadsafe(work, _loop())
