"""A server as a client sees it: this one, `transformers serve` or vLLM, started, asked and ended.

Every answer is greedy and streamed. Tokens are counted on the answers' texts with the model's tokenizer, the same for
every server; an answer that ends by itself has the rate of the tokens it has.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
import torch
from tokenizers import Tokenizer

from benchmarks.questions import LONG, ROOT, SHORT, jpeg, picture, question
from fourfold.assistant.images import Attachment
from fourfold.assistant.model.bf16 import has_fast_bf16

VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
SIDE_BY_SIDE = ("fourfold", "transformers serve", "vllm")
"""Whose speed is compared; vLLM's own front adds nothing to its engine's."""


def commands(model: Path, port: int) -> dict[str, list[str]]:
    """How each server is started, by its name, with the flags that are best for it on this machine.

    "vllm" is `fourfold serve --engine vllm`, "vllm serve" vLLM as its own documentation starts it.
    """
    here = [sys.executable, "-m"]
    serve = ["fourfold", "serve", "--model", str(model), "--port", str(port)]
    # Continuous batching is for models without eyes in transformers 5.19, which warns and answers one after another.
    address = ["--host", "127.0.0.1", "--port", str(port)]
    peer = ["benchmarks.speed.transformers_serve", str(model), "--continuous-batching", "--device", "cpu", *address]
    if has_fast_bf16(torch.device("cpu")):
        peer += ["--dtype", "bfloat16"]
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    # Compiling takes minutes on a CPU.
    bare = ["serve", str(model), *address, "--served-model-name", model.resolve().name, "--enforce-eager", *tools]
    return {
        "fourfold": [*here, *serve],
        "transformers serve": [*here, *peer],
        "vllm": [str(VLLM_PYTHON), "-m", *serve, "--engine", "vllm", "--", *tools],
        "vllm serve": [str(VLLM_PYTHON.with_name("vllm")), *bare],
    }


@dataclass
class Answer:
    """A streamed answer: its text, and when its first and last pieces came after the request was sent, in seconds."""

    text: str = ""
    first: float = 0.0
    last: float = 0.0


@dataclass
class Crowd:
    """What became of the questions of people who asked at once.

    Attributes:
        seconds: until the last answer was whole.
        answers: of those who got one.
        reasons: why the others got none; an answer without a word is none.
    """

    seconds: float
    answers: list[Answer] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Server:
    """A server process that answers.

    Attributes:
        name: of `commands`.
        client: of it, and the name by which its model is `called` there.
        startup: seconds from the command to the first answer of one token.

    Args:
        name: of `commands`.
        model: checkpoint directory.
        logs: directory for what it says.

    Raises:
        RuntimeError: it ended before it answered, or did not answer within ten minutes.
        openai.APIError: it refused the first question.
    """

    def __init__(self, name: str, model: Path, logs: Path) -> None:
        self.name = name
        port = _free_port()
        command = commands(model, port)[name]
        # vLLM and ours know the model by its directory's name, transformers by the directory.
        self.called = str(model) if name.startswith("transformers") else model.resolve().name
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._log = logs / f"{name}.log"
        # transformers lists the models of its cache, and fails where there is none.
        hub = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(logs)}
        environment = {**os.environ, **hub, "VLLM_CPU_KVCACHE_SPACE": "1"}
        started = time.perf_counter()
        with self._log.open("w") as output:
            self._process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            self._wait_until_it_answers()
            self.startup = time.perf_counter() - started
            self.ask([new_question(SHORT)], 8)  # what is done once, at first use
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
        return len(self._tokenizer.encode(answer.text, add_special_tokens=False).ids)

    def rate_alone(self, tokens: int) -> float:
        """Tokens a second of one long answer after its first piece."""
        answer = self.ask([new_question(LONG)], tokens)
        if answer.last == answer.first:
            raise RuntimeError("the answer came in one piece")
        return (self.count(answer) - 1) / (answer.last - answer.first)

    def crowd(self, people: int, text: str, max_tokens: int, each: int = 1) -> Crowd:
        """So many people ask at once about a picture each, and then about the next, `each` of them."""
        asked = [[[new_question(text)] for _ in range(each)] for _ in range(people)]
        found = Crowd(0.0)

        def person(questions: list[list[dict[str, Any]]]) -> None:
            for messages in questions:
                try:
                    answer = self.ask(messages, max_tokens)
                except openai.OpenAIError as error:
                    found.reasons.append(f"{type(error).__name__}: {error}"[:200])
                else:
                    if answer.text:
                        found.answers.append(answer)
                    else:
                        found.reasons.append("an empty answer")

        with ThreadPoolExecutor(people) as pool:
            started = time.perf_counter()
            list(pool.map(person, asked))
            found.seconds = time.perf_counter() - started
        return found

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


def new_question(text: str) -> dict[str, Any]:
    """About a picture that no cache knows."""
    return question(text, Attachment(jpeg(picture())))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
