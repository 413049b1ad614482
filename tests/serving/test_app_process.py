"""`fourfold serve` as a process: what it says when it cannot start, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from serving.server import is_loopback
from tests.serving.live import wait_for


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fourfold.cli", "serve", *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FOURFOLD_")}
    environment["FOURFOLD_OFFLINE"] = "1"
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def fails(options: Sequence[str]) -> str:
    process = start(*options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert not out and err.count("\n") == 1 and err.startswith("fourfold: "), err
    return err


def test_open_to_others_without_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.com"):
        assert not is_loopback(host)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"):
        assert is_loopback(host)
    assert "--api-key-file" in fails(["--host", "0.0.0.0"])


def test_busy_port(tiny_checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "in use" in fails(["--model", str(tiny_checkpoint), "--port", port])


def test_foreign_address(tiny_checkpoint: Path) -> None:
    options = ["--model", str(tiny_checkpoint), "--host", "192.0.2.7", "--api-key", "k" * 16, "--port", "0"]
    assert "cannot listen on 192.0.2.7" in fails(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--api-key", "short"], "at least 16"),
        (["--api-key-file", "/nonexistent"], "cannot be read"),
        (["--model", "/nonexistent"], "no model is called"),
        (["--allow-image-host", "https://x"], "is not a host name"),
        (["something"], "unexpected"),
    ],
)
def test_bad_options(options: list[str], message: str) -> None:
    assert message in fails(["--port", "0", *options])


def test_bad_checkpoint_and_adapter(tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    assert "broken" in fails(["--port", "0", "--model", str(broken)])
    missing = str(tmp_path / "no-such-adapter")
    assert "no-such-adapter" in fails(["--port", "0", "--model", str(tiny_checkpoint), "--adapter", missing])


def test_serves_says_where_and_ends_in_order(tiny_checkpoint: Path) -> None:
    process = start("--model", str(tiny_checkpoint), "--port", "0")
    lines: list[str] = []
    try:
        assert process.stdout is not None
        where, curl = process.stdout.readline(), process.stdout.readline()
        url = where.split()[-1]
        assert url.startswith("http://127.0.0.1:") and f"curl {url}/chat/completions" in curl
        ran = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60)
        assert json.loads(ran.stdout)["choices"]

        def read() -> None:
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 200, "stream": True, "temperature": 1}
            with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=60) as response:
                lines.extend(line for line in response.iter_lines() if line)

        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: lines)
        process.send_signal(signal.SIGTERM)
        reader.join(60)
        assert lines[-1] == "data: [DONE]"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
