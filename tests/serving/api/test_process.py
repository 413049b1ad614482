"""`fourfold serve` as people start it: what it says when it cannot start, how it serves, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fourfold.cli.main import main
from fourfold.prompts.errors import UserError
from fourfold.serving.api.server import answering_503, bind, is_loopback
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import HOT, Live, bearer, chunks, data_uri, image_part, live_server, text_part
from tests.serving.engine.conversations import wait_for

KEY = "process-key-0123456789"


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith("FOURFOLD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "fourfold.cli", "serve", *options]


def complaint(options: Sequence[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command refuses to start; in this process, to spare the start of another."""
    monkeypatch.setattr(sys, "argv", ["fourfold", "serve", *options])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capfd.readouterr()
    assert left.value.code == 2
    assert not out and err.count("\n") == 1 and err.startswith("fourfold: "), err
    return err


def test_who_is_loopback() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.com"):
        assert not is_loopback(host)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        assert is_loopback(host)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--api-key", "short"], "at least 16"),
        (["--api-key-file", "/nonexistent"], "cannot be read"),
        (["--model", "/nonexistent"], "no model is called"),
        (["--adapter", "/nonexistent"], "/nonexistent is no LoRA adapter"),
        (["--allow-image-host", "https://x"], "is not a host name"),
        (["something"], "unexpected"),
        (["--engine", "vllm", "--max-running", "4"], "--max-num-seqs"),
        (["--engine", "vllm", "--memory"], "--memory is the local engine's"),
    ],
)
def test_bad_options(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(["--port", "0", *options], monkeypatch, capfd)


def test_foreign_address(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(tiny_checkpoint), "--host", "192.0.2.7", "--api-key", KEY, "--port", "0"]
    assert "cannot listen on 192.0.2.7" in complaint(options, monkeypatch, capfd)


def test_bad_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    assert "broken" in complaint(["--port", "0", "--model", str(broken)], monkeypatch, capfd)


def test_busy_port(tiny_checkpoint: Path) -> None:
    """As a process of its own: nothing else may come out, and nothing heavy may be loaded before it ends."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = command("--model", str(tiny_checkpoint), "--port", port)
        ended = subprocess.run(options, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and not ended.stdout
    assert ended.stderr.count("\n") == 1 and "in use" in ended.stderr


def test_health_says_that_the_model_is_being_loaded(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    seen: list[httpx.Response] = []

    def load(*arguments: object, **options: object) -> None:
        for path in ("health", "ready", "live"):
            seen.append(httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=10))
        raise UserError("seen enough")

    monkeypatch.setattr(Engine, "load", load)
    assert "seen enough" in complaint(["--model", str(tiny_checkpoint), "--port", str(port)], monkeypatch, capfd)
    for said in seen[:2]:
        assert (said.status_code, said.json()["error"]["code"]) == (503, "loading")
    assert (seen[2].status_code, seen[2].json()) == (200, {"status": "ok"})


def test_the_socket_that_said_so_then_serves(tiny_engine: Engine) -> None:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with answering_503(listener):
        early = [httpx.get(f"{url}/v1/models"), httpx.post(f"{url}/v1/chat/completions", content=b"x" * 2**21)]
    assert [(reply.status_code, reply.headers["retry-after"]) for reply in early] == [(503, "2")] * 2
    with live_server(tiny_engine, listener=listener) as server:
        assert server.url == url and server.chat().status_code == 200


@dataclass(frozen=True)
class Started:
    """A running `fourfold serve`, by what it printed."""

    process: subprocess.Popen[str]
    url: str
    curl: str

    def chat(self, **fields: object) -> httpx.Response:
        picture = [image_part(data_uri()), text_part("what is it?")]
        body = {"messages": [{"role": "user", "content": picture}], "max_tokens": 12, **HOT, **fields}
        return httpx.post(f"{self.url}/chat/completions", json=body, headers=bearer(KEY), timeout=120)


@pytest.fixture(scope="module")
def started(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FOURFOLD_")}
    environment |= {"FOURFOLD_OFFLINE": "1", "FOURFOLD_CACHE": str(tmp_path_factory.mktemp("cache"))}
    options = ["--model", str(tiny_checkpoint), "--port", "0", "--api-key", KEY, "--quantization", "4bit"]
    process = subprocess.Popen(
        command(*options), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        where, curl = process.stdout.readline(), process.stdout.readline()
        yield Started(process, where.split()[-1], curl)
    finally:
        process.kill()
        process.communicate()


def test_says_where_it_listens_and_how_to_ask(started: Started) -> None:
    assert started.url.startswith("http://127.0.0.1:") and f"{started.url}/chat/completions" in started.curl
    asked = subprocess.run(
        ["bash", "-c", started.curl.partition("ask it: ")[2]],
        env={**os.environ, "KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert json.loads(asked.stdout)["choices"]


def test_four_bits_answer_whole_and_streamed(started: Started, live: Live) -> None:
    whole = started.chat(logprobs=True).json()
    assert whole["usage"]["completion_tokens"] == 12
    events = chunks(started.chat(stream=True))
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == whole["choices"][0]["message"]["content"]
    plain = live.chat([image_part(data_uri()), text_part("what is it?")], logprobs=True, max_tokens=1).json()

    def first(answer: dict) -> float:
        return answer["choices"][0]["logprobs"]["content"][0]["logprob"]

    # Rounding to 4 bits moves the log-probabilities of a random model a little, but it does move them.
    assert 1e-4 < abs(first(started.chat(logprobs=True, temperature=0).json()) - first(plain)) < 0.5


def test_ends_in_order(started: Started) -> None:
    """Comes last in this file: it ends the server, whose answers may be finished before it goes."""
    lines: list[str] = []

    def read() -> None:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 200, "stream": True, "temperature": 1}
        url = f"{started.url}/chat/completions"
        with httpx.stream("POST", url, json=body, headers=bearer(KEY), timeout=120) as response:
            lines.extend(line for line in response.iter_lines() if line)

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: lines, 60)
    started.process.send_signal(signal.SIGTERM)
    reader.join(120)
    assert lines[-1] == "data: [DONE]"
    assert started.process.wait(60) == 0
