"""This server, `transformers serve` and vLLM side by side: the same machine, checkpoint, questions and client.

    python -m benchmarks.serving --json out.json [--model DIR] [--only fourfold ...] [--repeats 5] [--tokens 96]

Servers run one after another, each alone and with its own defaults (vLLM's number format is bfloat16 there). vLLM is
measured where its environment is (`.venv-vllm`, made by `make vllm-env`). Run it on a quiet machine: on two cores every
other program shows in the figures. `--repeats 1 --tokens 8` only shows that everything starts and answers.

Definitions, all as a client sees them, greedy, one picture of 640 x 480 a question unless said otherwise: start-up is
from the command to the first answer of one token; time to first token is from sending a question about a new picture
to the first piece of text (median of the repeats); tokens a second alone is one streamed answer after its first piece
(median of the repeats); at 8 at once, all tokens of 8 answers about 8 pictures by the time the last is done (median of
the repeats); follow-up is the time to first token of a second question about the same picture (median of the repeats);
memory is the resident memory of the server's processes after all that, and at its highest. Tokens are counted on the
answers' texts with the model's tokenizer, the same for every server. Where an answer ends by itself before `--tokens`,
its rate is that of the tokens it has.
"""

import argparse
import base64
import concurrent.futures
import contextlib
import io
import itertools
import json
import os
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image, ImageDraw
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[1]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
LONG = "Tell me a long and detailed story about what you see, with many sentences."
SHORT = "[vqa] what is in the picture?"


@dataclass
class Row:
    """One server's figures; seconds, tokens a second, MiB. `lengths`: tokens of the answers behind the two rates."""

    server: str
    startup: float | None = None
    first_token: float | None = None
    alone: float | None = None
    eight_at_once: float | None = None
    follow_up: float | None = None
    memory: float | None = None
    peak_memory: float | None = None
    lengths: list[int] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Effort:
    """How much is measured: repeats of everything, and tokens asked for where speed is measured."""

    repeats: int
    tokens: int


def commands(model: Path, port: int) -> dict[str, list[str]]:
    """How each server is started, by its name."""
    here = [sys.executable, "-m"]
    found = {
        "fourfold": [*here, "fourfold.cli", "serve", "--model", str(model), "--port", str(port)],
        "transformers serve": [
            *here,
            "benchmarks.transformers_serve",
            *[str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        ],
    }
    if VLLM_PYTHON.exists():
        vllm = [str(VLLM_PYTHON), "-m", "fourfold.cli", "serve", "--engine", "vllm"]
        found["vllm"] = [*vllm, "--model", str(model), "--port", str(port)]
    return found


def picture(seed: int) -> str:
    """A data URI of some shapes, different for every seed, so that no cache knows it."""
    draw_from = random.Random(seed)
    image = Image.new("RGB", (640, 480), tuple(draw_from.randbytes(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = draw_from.randrange(560), draw_from.randrange(400)
        draw.ellipse((x, y, x + 80, y + 80), fill=tuple(draw_from.randbytes(3)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def question(text: str, image: str | None = None) -> dict[str, Any]:
    """A user's turn."""
    if image is None:
        return {"role": "user", "content": text}
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": text}],
    }


@dataclass
class Timed:
    """A streamed answer: its text, and when its first and last pieces came after the request was sent."""

    text: str
    first: float
    last: float


def ask(url: str, model: str, messages: list[dict[str, Any]], max_tokens: int) -> Timed:
    """Stream one answer.

    Raises:
        RuntimeError: the server refused, or said in the stream that it failed.
    """
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    began, first, last, text = time.perf_counter(), 0.0, 0.0, ""
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=600) as response:
        if response.status_code != 200:
            response.read()
            raise RuntimeError(f"{response.status_code}: {response.text[:300]}")
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event.get("error"):
                raise RuntimeError(f"the stream broke: {str(event['error'])[:300]}")
            choices = event.get("choices")
            if choices and (piece := choices[0]["delta"].get("content")):
                last = time.perf_counter() - began
                first = first or last
                text += piece
    return Timed(text, first, last)


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[psutil.Process]:
    """A server process, ended with its children."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [process, *process.children(recursive=True)]
                process.terminate()
                _, alive = psutil.wait_procs(family, timeout=40)
                for left in alive:
                    left.kill()


def wait_until_it_answers(process: psutil.Process, url: str, called: str, log: Path) -> None:
    """Ask for one token until it comes.

    Raises:
        RuntimeError: the server ended, refused, or was not there after ten minutes.
    """
    deadline = time.monotonic() + 600
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"did not start; see {log}")
        try:
            ask(url, called, [question("Hi")], 1)
            return
        except httpx.TransportError:
            time.sleep(0.05)
        except RuntimeError as error:
            if not str(error).startswith(("404", "503")):  # up, but the model is not
                raise
            time.sleep(0.05)


def memory(process: psutil.Process) -> tuple[float, float]:
    """MiB of a server's processes now, and the sum of what each had at its highest (Linux; elsewhere the same)."""
    now = highest = 0.0
    for member in [process, *process.children(recursive=True)]:
        resident = member.memory_info().rss / 2**20
        now += resident
        status = Path(f"/proc/{member.pid}/status")
        line = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
        highest += int(line[1]) / 1024 if line else resident
    return now, highest


def measure(name: str, command: list[str], url: str, model: Path, log: Path, effort: Effort) -> Row:
    """All figures of one server."""
    row = Row(name)
    tokenizer = AutoTokenizer.from_pretrained(model)
    # vLLM and ours know the model by its directory's name, transformers by the directory.
    called = str(model) if name.startswith("transformers") else model.resolve().name
    seeds = itertools.count()

    def count(answer: Timed) -> int:
        length = len(tokenizer.encode(answer.text, add_special_tokens=False))
        row.lengths.append(length)
        return length

    def tell(message: dict[str, Any]) -> Timed:
        return ask(url, called, [message], effort.tokens)

    began = time.perf_counter()
    with running(command, log) as process:
        try:
            wait_until_it_answers(process, url, called, log)
            row.startup = time.perf_counter() - began
            ask(url, called, [question(SHORT, picture(next(seeds)))], 8)  # whatever is done once, at first use

            firsts, follow_ups = [], []
            for _ in range(effort.repeats):
                messages = [question(SHORT, picture(next(seeds)))]
                answer = ask(url, called, messages, 16)
                firsts.append(answer.first)
                messages += [{"role": "assistant", "content": answer.text}, question("And what else?")]
                follow_ups.append(ask(url, called, messages, 16).first)
            row.first_token, row.follow_up = statistics.median(firsts), statistics.median(follow_ups)

            rates = []
            for _ in range(effort.repeats):
                answer = tell(question(LONG, picture(next(seeds))))
                rates.append((count(answer) - 1) / (answer.last - answer.first))
            row.alone = statistics.median(rates)

            rates = []
            for _ in range(effort.repeats):
                messages = [question(LONG, picture(next(seeds))) for _ in range(8)]
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    began = time.perf_counter()
                    answers = list(pool.map(tell, messages))
                    seconds = time.perf_counter() - began
                rates.append(sum(count(answer) for answer in answers) / seconds)
            row.eight_at_once = statistics.median(rates)
            row.memory, row.peak_memory = memory(process)
        except ZeroDivisionError:
            row.error = "an answer came in one piece"
        except (RuntimeError, httpx.HTTPError) as error:
            row.error = str(error) or type(error).__name__
    return row


def table(rows: list[Row]) -> str:
    """Markdown."""

    def cell(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    lines = [
        "| | start-up s | first token s | alone tok/s | 8 at once tok/s | follow-up s | memory MiB | at most MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        values = [cell(row.startup, 1), cell(row.first_token, 2), cell(row.alone, 1), cell(row.eight_at_once, 1)]
        values += [cell(row.follow_up, 2), cell(row.memory, 0), cell(row.peak_memory, 0)]
        lines.append(f"| {row.server} | {' | '.join(values)} |" + (f" {row.error}" if row.error else ""))
    return "\n".join(lines)


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    parser.add_argument("--only", nargs="*", help="names of servers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="of the answers whose speed is measured")
    arguments = parser.parse_args()
    from fourfold.assistant.checkpoints.resolve import resolve_model

    model = resolve_model(arguments.model)
    effort = Effort(arguments.repeats, arguments.tokens)
    rows: list[Row] = []
    load_before = os.getloadavg()
    for name in commands(model, 0):
        if arguments.only and name not in arguments.only:
            continue
        port = free_port()
        log = arguments.json.with_suffix(f".{name.replace(' ', '-')}.log")
        rows.append(measure(name, commands(model, port)[name], f"http://127.0.0.1:{port}/v1", model, log, effort))
        print(table(rows[-1:]), flush=True)
        save(arguments.json, rows, effort, model, load_before)
    print(table(rows))


def save(path: Path, rows: list[Row], effort: Effort, model: Path, load_before: tuple[float, ...]) -> None:
    """Write what there is so far: a run that is cut short keeps its figures."""
    report = {
        "rows": [asdict(row) for row in rows],
        "effort": asdict(effort),
        "machine": {"cores": os.cpu_count(), "processor": platform.processor(), "load_before": load_before},
        "versions": {package: version(package) for package in ("torch", "transformers", "fourfold")},
        "model": model.name,
    }
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(path)


if __name__ == "__main__":
    main()
