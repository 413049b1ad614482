"""Many people at once: short questions about pictures, at servers that all run at the same time and are asked in turns.

A server that nobody asks is idle, so they do not disturb each other; what disturbs the machine disturbs them alike.
"""

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.figures import Figure, in_turns
from benchmarks.serving import (
    SHORT,
    ask,
    commands,
    free_port,
    memory,
    picture,
    question,
    running,
    wait_until_it_answers,
)

CROWDS = (1, 4, 8, 16)


def crowds(model: Path, rounds: int, logs: Path) -> tuple[dict[tuple[str, int], Figure], dict[str, Figure]]:
    """Requests a second by (server, people at once), and memory in MiB by server.

    Args:
        model: checkpoint directory.
        rounds: runs of each.
        logs: directory for what the servers say.
    """
    numbers = itertools.count(1)
    with ExitStack() as servers:
        urls: dict[str, tuple[str, str, psutil.Process]] = {}
        absent: dict[str, str] = {} if "vllm" in commands(model, 0) else {"vllm": "vLLM's environment is not here"}
        for name in commands(model, 0):
            port = free_port()
            url, log = f"http://127.0.0.1:{port}/v1", logs / f"{name.replace(' ', '-')}.log"
            called = str(model) if name.startswith("transformers") else model.resolve().name
            try:
                process = servers.enter_context(running(commands(model, port)[name], log))
                wait_until_it_answers(process, url, called, log)
                ask(url, called, [question(SHORT, picture(next(numbers)))], 8)
                urls[name] = (url, called, process)
            except Exception as error:
                absent[name] = f"{type(error).__name__}: {error}"[:300]
                print(f"{name}: {absent[name]}", file=sys.stderr)
        figures: dict[tuple[str, int], Figure] = {}
        for people in CROWDS:
            contestants = {
                name: lambda url=url, called=called, people=people: _rate(url, called, people, numbers)
                for name, (url, called, _) in urls.items()
            }
            for name, figure in in_turns(contestants, rounds, "requests/s").items():
                figures[name, people] = figure
        taken = {name: Figure(name, "MiB", [memory(process)[0]]) for name, (*_, process) in urls.items()}
    for name, reason in absent.items():
        figures |= {(name, people): Figure(name, "requests/s", reason=reason) for people in CROWDS}
        taken[name] = Figure(name, "MiB", reason=reason)
    return figures, taken


def _rate(url: str, called: str, people: int, numbers: "itertools.count[int]") -> float:
    """Requests a second when so many people ask about a new picture each."""
    asked = [[question(SHORT, picture(next(numbers)))] for _ in range(people)]
    with ThreadPoolExecutor(people) as pool:
        started = time.perf_counter()
        answers = list(pool.map(lambda messages: ask(url, called, messages, 8), asked))
        seconds = time.perf_counter() - started
    assert all(answer.text for answer in answers)
    return people / seconds
