"""Servers side by side: ours, `transformers serve` and vLLM, all running, asked in turns by one client and by many.

A server that nobody asks is idle, so they do not disturb each other; what disturbs the machine disturbs them alike.
"""

import contextlib
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, in_turns
from benchmarks.questions import LONG, SHORT, gone_on
from benchmarks.speed.servers import SIDE_BY_SIDE, Answer, Server, commands, new_question

CROWDS = (1, 8, 16, 64)
FIRST_TOKEN_BOUND = 2.0
"""Seconds. Goodput counts the answers whose first token came within it, as `vllm bench serve --goodput ttft:2000`."""
CROWD_FIGURES = {
    "goodput": "requests/s",
    "median wait": "s",
    "longest wait": "s",
    "failed": "requests",
}
"""Beside the answers a second of a crowd; waits are for the first token."""


def compare_servers(model: Path, rounds: int, tokens: int, logs: Path) -> dict[str, Figure]:
    """Figures called `<what> <server>`.

    `startup`, and `memory` after all else; `first token` of a question about a new picture, and `follow-up`, that of a
    second question about it; `alone`, tokens a second of one long answer; `8 at once, long`, all tokens of eight such
    answers by the time the last is done; `<n> at once`, short questions about n new pictures answered a second, and of
    the same crowd `<n> at once, <one of CROWD_FIGURES>`.

    Args:
        model: checkpoint directory.
        rounds: runs of each; half of them of what takes long for everybody.
        tokens: of a long answer; of eight at once half of them.
        logs: directory for what the servers say.
    """
    servers: dict[str, Server] = {}
    with contextlib.ExitStack() as running:

        def start(name: str, command: list[str]) -> float:
            if not Path(command[0]).exists():
                raise RuntimeError("its environment is not here (make peers)")
            servers[name] = running.enter_context(contextlib.closing(Server(name, model, logs)))
            return servers[name].startup

        known = {name: commands(model, 0)[name] for name in SIDE_BY_SIDE}
        figures = in_turns({f"startup {name}": partial(start, name, known[name]) for name in known}, 1, "s")
        absent = {name: figures[f"startup {name}"].reason for name in known if name not in servers}

        def take_turns(what: str, unit: str, run: Callable[[Server], float], rounds: int = rounds) -> None:
            contestants = {f"{what} {name}": partial(run, server) for name, server in servers.items()}
            figures.update(in_turns(contestants, rounds, unit))
            figures.update({f"{what} {name}": Figure(unit, reason=reason) for name, reason in absent.items()})

        talks: dict[Server, list[list[dict[str, Any]]]] = {server: [] for server in servers.values()}

        def first_token(server: Server) -> float:
            messages = [new_question(SHORT)]
            answer = server.ask(messages, 16)
            talks[server].append(gone_on(messages, answer.text))
            return answer.first

        def eight_long(server: Server) -> float:
            crowd = server.crowd(8, LONG, tokens // 2)
            return sum(map(server.count, _all(crowd.answers, crowd.reasons))) / crowd.seconds

        take_turns("first token", "s", first_token)
        take_turns("follow-up", "s", lambda server: server.ask(talks[server].pop(), 16).first)
        take_turns("alone", "tokens/s", lambda server: server.rate_alone(tokens))
        take_turns("8 at once, long", "tokens/s", eight_long, max(1, rounds // 2))
        for people in CROWDS:
            many = rounds if people < 16 else max(1, rounds // 2)
            beside = {what: {server: Figure(unit) for server in known} for what, unit in CROWD_FIGURES.items()}

            def crowd(server: Server, people: int = people, beside: Any = beside) -> float:
                rate, *others = crowd_figures(server, people)
                for figure, value in zip(beside.values(), others, strict=True):
                    figure[server.name].runs.append(value)
                return rate

            take_turns(f"{people} at once", "requests/s", crowd, many)
            for what, found in beside.items():
                for name, figure in found.items():
                    figure.reason = figures[f"{people} at once {name}"].reason
                    figure.runs = [] if figure.reason else figure.runs
                    figures[f"{people} at once, {what} {name}"] = figure
        take_turns("memory", "MiB", Server.memory, 1)
    return figures


def crowd_figures(server: Server, people: int) -> tuple[float, float, float, float, float]:
    """Answers a second of a crowd with short questions, and `CROWD_FIGURES`; of somebody alone four questions in a row.

    Raises:
        RuntimeError: nobody was answered; says why the first was not.
    """
    found = server.crowd(people, SHORT, 8, each=4 if people == 1 else 1)
    if not found.answers:
        raise RuntimeError(found.reasons[0])
    waits = [answer.first for answer in found.answers]
    good = sum(wait <= FIRST_TOKEN_BOUND for wait in waits)
    answered, goodput = len(waits) / found.seconds, good / found.seconds
    return answered, goodput, statistics.median(waits), max(waits), float(len(found.reasons))


def _all(answers: list[Answer], reasons: list[str]) -> list[Answer]:
    if reasons:
        raise RuntimeError(reasons[0])
    return answers
