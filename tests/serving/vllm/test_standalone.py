"""vLLM by itself: `vllm serve DIRECTORY --trust-remote-code` where neither our plugin nor fourfold can be imported."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fourfold.assistant.images import image_url
from fourfold.serving.engine.engine import Completion
from tests.serving.vllm.conftest import CONTEXT, ENVIRONMENT, QUESTIONS, SAMPLING, KeptRelease

pytestmark = pytest.mark.vllm


def serve(directory: Path, root: Path) -> Iterator[str]:
    (root / "sitecustomize.py").write_text('import sys\n\nsys.modules["fourfold"] = None\n')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(directory), "--trust-remote-code"]
    command += ["--port", str(port), "--dtype", "float32", "--max-model-len", str(CONTEXT), "--enforce-eager"]
    environment = {**os.environ, **ENVIRONMENT, "VLLM_PLUGINS": "", "PYTHONPATH": str(root)}
    blocked = subprocess.run([sys.executable, "-c", "import fourfold"], env=environment, cwd=root, capture_output=True)
    assert b"import of fourfold halted" in blocked.stderr
    log = root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=root)
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + 540
        while True:
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def tiny(checkpoint: Path, local: dict[str, Completion], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve(checkpoint, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def released(kept_release: KeptRelease, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve(kept_release.directory, tmp_path_factory.mktemp("released"))


def tokens(url: str, name: str) -> list[int]:
    images, text = QUESTIONS[name]
    content = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in images]
    body = {"messages": [{"role": "user", "content": [*content, {"type": "text", "text": text}]}], "temperature": 0}
    body |= {"max_tokens": SAMPLING.max_tokens, "return_token_ids": True}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_same_tokens(name: str, tiny: str, local: dict[str, Completion]) -> None:
    assert tokens(tiny, name) == local[name].token_ids


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_same_tokens_of_a_converted_release(name: str, released: str, kept_release: KeptRelease) -> None:
    """EVA's tower, the LLaMA prompt; without the adapter, which is apart."""
    assert tokens(released, name) == kept_release.without[name].token_ids
