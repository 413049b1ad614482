"""This server, `transformers serve` and vLLM side by side: the same machine, checkpoint, questions and client.

    python -m benchmarks.serving --json out.json [--model DIR] [--only fourfold ...]

Servers run one after another, each alone. vLLM is measured where its environment is (`.venv-vllm`, made by
`make vllm-env`). Run it on a quiet machine: on two cores every other program shows in the figures.

Definitions, all as a client sees them, greedy, one picture of 640 x 480 a question unless said otherwise: start-up is
from the command to the first answer of one token; time to first token is from sending a question about a new picture
to the first piece of text (median of 5); tokens a second alone is one streamed answer after its first piece (median of
3); at 8 at once, all tokens of 8 answers about 8 pictures by the time the last is done; follow-up is the time to first
token of a second question about the same picture (median of 5); memory is the resident memory of the server's
processes after all that.
"""

import argparse
import base64
import concurrent.futures
import io
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
    """One server's figures; seconds, tokens a second, MiB."""

    server: str
    startup: float | None = None
    first_token: float | None = None
    alone: float | None = None
    eight_at_once: float | None = None
    follow_up: float | None = None
    memory: float | None = None
    error: str | None = None


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
        found["vllm"] = [*vllm, "--model", str(model), "--port", str(port), "--", "--max-model-len", "2048"]
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
    """Stream one answer."""
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    began, first, last, text = time.perf_counter(), 0.0, 0.0, ""
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=600) as response:
        if response.status_code != 200:
            response.read()
            raise RuntimeError(f"{response.status_code}: {response.text[:300]}")
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            choices = json.loads(line.removeprefix("data: ")).get("choices")
            if choices and (piece := choices[0]["delta"].get("content")):
                last = time.perf_counter() - began
                first = first or last
                text += piece
    return Timed(text, first, last)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[psutil.Process]:
    """A server process, ended with its children."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            yield process
        finally:
            family = [process, *process.children(recursive=True)]
            process.terminate()
            _, alive = psutil.wait_procs(family, timeout=40)
            for left in alive:
                left.kill()


def measure(name: str, command: list[str], url: str, model: Path, log: Path) -> Row:
    """All figures of one server."""
    row = Row(name)
    tokenizer = AutoTokenizer.from_pretrained(model)
    # vLLM and ours know the model by its directory's name, transformers by the directory.
    called = str(model) if name.startswith("transformers") else model.resolve().name

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    began = time.perf_counter()
    with running(command, log) as process:
        try:
            while True:
                if process.poll() is not None or time.perf_counter() - began > 300:
                    raise RuntimeError(f"did not start; see {log}")
                try:
                    ask(url, called, [question("Hi")], 1)
                    break
                except (httpx.TransportError, RuntimeError) as error:
                    if isinstance(error, RuntimeError) and not str(error).startswith(("404", "503")):
                        raise
                    time.sleep(0.1)
            row.startup = time.perf_counter() - began
            ask(url, called, [question(SHORT, picture(0))], 8)  # whatever is done once, at first use

            firsts, follow_ups = [], []
            for seed in range(1, 6):
                messages = [question(SHORT, picture(seed))]
                answer = ask(url, called, messages, 16)
                firsts.append(answer.first)
                messages += [{"role": "assistant", "content": answer.text}, question("And what else?")]
                follow_ups.append(ask(url, called, messages, 16).first)
            row.first_token, row.follow_up = statistics.median(firsts), statistics.median(follow_ups)

            rates = []
            for seed in range(20, 23):
                answer = ask(url, called, [question(LONG, picture(seed))], 96)
                rates.append((count(answer.text) - 1) / (answer.last - answer.first))
            row.alone = statistics.median(rates)

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                began = time.perf_counter()
                answers = list(pool.map(lambda s: ask(url, called, [question(LONG, picture(s))], 96), range(30, 38)))
                row.eight_at_once = sum(count(answer.text) for answer in answers) / (time.perf_counter() - began)
            family = [process, *process.children(recursive=True)]
            row.memory = sum(member.memory_info().rss for member in family) / 2**20
        except (RuntimeError, httpx.HTTPError, ZeroDivisionError) as error:
            row.error = str(error) or type(error).__name__
    return row


def table(rows: list[Row]) -> str:
    """Markdown."""

    def cell(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    lines = [
        "| | start-up s | first token s | alone tok/s | 8 at once tok/s | follow-up s | memory MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        values = [cell(row.startup, 1), cell(row.first_token, 2), cell(row.alone, 1), cell(row.eight_at_once, 1)]
        values += [cell(row.follow_up, 2), cell(row.memory, 0)]
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
    arguments = parser.parse_args()
    from assistant.checkpoints.resolve import resolve_model

    model = resolve_model(arguments.model)
    rows = []
    load_before = os.getloadavg()
    for name in commands(model, 0):
        if arguments.only and name not in arguments.only:
            continue
        port = free_port()
        log = arguments.json.with_suffix(f".{name.replace(' ', '-')}.log")
        rows.append(measure(name, commands(model, port)[name], f"http://127.0.0.1:{port}/v1", model, log))
        print(table(rows[-1:]), flush=True)
    report = {
        "rows": [asdict(row) for row in rows],
        "machine": {"cores": os.cpu_count(), "processor": platform.processor(), "load_before": load_before},
        "versions": {package: version(package) for package in ("torch", "transformers", "fourfold")},
        "model": model.name,
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
