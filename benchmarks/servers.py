"""Servers side by side, as a client sees them: this one, `transformers serve` and vLLM, all running, asked in turns.

A server that nobody asks is idle, so they do not disturb each other; what disturbs the machine disturbs them alike.
Every answer is greedy and streamed. Tokens are counted on the answers' texts with the model's tokenizer, the same for
every server; an answer that ends by itself has the rate of the tokens it has.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai
import psutil
import torch
from transformers import AutoTokenizer

from benchmarks.figures import Figure, in_turns
from benchmarks.questions import LONG, ROOT, SHORT, gone_on, jpeg, picture, question
from fourfold.assistant.images import Attachment
from fourfold.assistant.model.bf16 import has_fast_bf16

VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
CROWDS = (1, 4, 8, 16)


def commands(model: Path, port: int) -> dict[str, list[str]]:
    """How each server is started, by its name, with the flags that are best for it on this machine."""
    here = [sys.executable, "-m"]
    serve = ["fourfold", "serve", "--model", str(model), "--port", str(port)]
    # Continuous batching is for models without eyes in transformers 5.19, which warns and answers one after another.
    peer = ["benchmarks.transformers_serve", str(model), "--continuous-batching", "--device", "cpu"]
    peer += ["--host", "127.0.0.1", "--port", str(port)]
    if has_fast_bf16(torch.device("cpu")):
        peer += ["--dtype", "bfloat16"]
    return {
        "fourfold": [*here, *serve],
        "transformers serve": [*here, *peer],
        "vllm": [str(VLLM_PYTHON), "-m", *serve, "--engine", "vllm"],
    }


@dataclass
class Answer:
    """A streamed answer: its text, and when its first and last pieces came after the request was sent, in seconds."""

    text: str = ""
    first: float = 0.0
    last: float = 0.0


class Server:
    """A server process that answers.

    Attributes:
        client: of it, and the name by which it is `called` there.

    Args:
        name: of `commands`.
        model: checkpoint directory.
        logs: directory for what it says.

    Raises:
        RuntimeError: it ended before it answered, or did not answer within ten minutes.
        openai.APIError: it refused the first question.
    """

    def __init__(self, name: str, model: Path, logs: Path) -> None:
        port = _free_port()
        command = commands(model, port)[name]
        # vLLM and ours know the model by its directory's name, transformers by the directory.
        self.called = str(model) if name.startswith("transformers") else model.resolve().name
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._log = logs / f"{name}.log"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        started = time.perf_counter()
        with self._log.open("w") as output:
            self._process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            self._wait_until_it_answers()
            self.startup = time.perf_counter() - started  # from the command to the first answer of one token
            self.ask([_new_question(SHORT)], 8)  # what is done once, at first use
        except BaseException:
            self.close()
            raise

    def ask(self, messages: list[dict[str, Any]], max_tokens: int) -> Answer:
        """Stream one answer.

        Raises:
            openai.APIError: it is not there, refused, or said in the stream that it failed.
        """
        answer, started = Answer(), time.perf_counter()
        stream: Any = self.client.chat.completions.create(
            model=self.called,
            messages=messages,  # type: ignore[arg-type]
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
        )
        for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                answer.last = time.perf_counter() - started
                answer.first = answer.first or answer.last
                answer.text += piece
        return answer

    def count(self, answer: Answer) -> int:
        """Tokens of an answer."""
        return len(self._tokenizer.encode(answer.text, add_special_tokens=False))

    def rate_alone(self, tokens: int) -> float:
        """Tokens a second of one long answer after its first piece."""
        answer = self.ask([_new_question(LONG)], tokens)
        if answer.last == answer.first:
            raise RuntimeError("the answer came in one piece")
        return (self.count(answer) - 1) / (answer.last - answer.first)

    def crowd(self, people: int, text: str, max_tokens: int) -> tuple[float, list[Answer]]:
        """Seconds until the last of so many people, who ask at once about a picture each, has the whole answer."""
        asked = [[_new_question(text)] for _ in range(people)]
        with ThreadPoolExecutor(people) as pool:
            started = time.perf_counter()
            answers = list(pool.map(lambda messages: self.ask(messages, max_tokens), asked))
            return time.perf_counter() - started, answers

    def memory(self) -> float:
        """MiB of its processes, resident now."""
        return sum(member.memory_info().rss for member in self._family()) / 2**20

    def close(self) -> None:
        """End it with its children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = self._family()
            self._process.terminate()
            for left in psutil.wait_procs(family, timeout=40)[1]:
                left.kill()

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 600
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
                raise RuntimeError(f"it did not start: {said[-1][:200] if said else 'it said nothing'}")
            try:
                self.ask([question("Hi")], 1)
                return
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                if getattr(error, "status_code", 503) not in (404, 503):  # up, but the model is not
                    raise
                time.sleep(0.05)


def compare_servers(model: Path, rounds: int, tokens: int, logs: Path) -> dict[str, Figure]:
    """Figures called `<what> <server>`.

    `startup`, and `memory` after all else; `first token` of a question about a new picture, and `follow-up`, that of a
    second question about it; `alone`, tokens a second of one long answer; `8 at once, long`, all tokens of eight such
    answers by the time the last is done; `<n> at once`, short questions about n new pictures answered a second.

    Args:
        model: checkpoint directory.
        rounds: runs of each.
        tokens: of a long answer.
        logs: directory for what the servers say.
    """
    servers: dict[str, Server] = {}
    with contextlib.ExitStack() as running:

        def start(name: str, command: list[str]) -> float:
            if not Path(command[0]).exists():
                raise RuntimeError("its environment is not here (make vllm-env)")
            servers[name] = running.enter_context(contextlib.closing(Server(name, model, logs)))
            return servers[name].startup

        known = commands(model, 0)
        figures = in_turns({f"startup {name}": partial(start, name, known[name]) for name in known}, 1, "s")
        absent = {name: figures[f"startup {name}"].reason for name in known if name not in servers}

        def take_turns(what: str, unit: str, run: Callable[[Server], float], rounds: int = rounds) -> None:
            contestants = {f"{what} {name}": partial(run, server) for name, server in servers.items()}
            figures.update(in_turns(contestants, rounds, unit))
            figures.update({f"{what} {name}": Figure(unit, reason=reason) for name, reason in absent.items()})

        talks: dict[Server, list[list[dict[str, Any]]]] = {server: [] for server in servers.values()}

        def first_token(server: Server) -> float:
            messages = [_new_question(SHORT)]
            answer = server.ask(messages, 16)
            talks[server].append(gone_on(messages, answer.text))
            return answer.first

        def eight_long(server: Server) -> float:
            seconds, answers = server.crowd(8, LONG, tokens)
            return sum(map(server.count, answers)) / seconds

        take_turns("first token", "s", first_token)
        take_turns("follow-up", "s", lambda server: server.ask(talks[server].pop(), 16).first)
        take_turns("alone", "tokens/s", lambda server: server.rate_alone(tokens))
        take_turns("8 at once, long", "tokens/s", eight_long)
        for people in CROWDS:
            take_turns(f"{people} at once", "requests/s", lambda s, n=people: n / s.crowd(n, SHORT, 8)[0])
        take_turns("memory", "MiB", Server.memory, 1)
    return figures


def _new_question(text: str) -> dict[str, Any]:
    return question(text, Attachment(jpeg(picture())))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
