"""What the tests of vLLM share. They run in vLLM's own environment (`make vllm-env`), on its CPU build."""

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from openai import OpenAI
from PIL import Image

from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling
from tests.tiny import write_loud_tiny

CONTEXT = 512
SAMPLING = Sampling(max_tokens=16, logprobs=1)
USER_KEY = "user-key-0123456789"
ADMIN_KEY = "admin-key-0123456789"
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
# Each step of the launcher's way, from a fresh interpreter, as `fourfold serve` takes it.
_LAUNCH = """
import hashlib, sys
from pathlib import Path
from fourfold.serving.api.keys import Key, KeyRing
from fourfold.serving.vllm.launch import launch_vllm
directory, port, quantization, user, admin, *extra = sys.argv[1:]
ring = [Key("user", hashlib.sha256(user.encode()).digest())] if user else []
ring += [Key("admin", hashlib.sha256(admin.encode()).digest(), admin=True)] if admin else []
launch_vllm(Path(directory), port=int(port), keys=KeyRing(ring), quantization=quantization or None, extra=extra)
"""


def noise(seed: int, width: int = 100, height: int = 80) -> Image.Image:
    """An image that looks like no other."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


QUESTIONS: dict[str, tuple[list[Image.Image], str]] = {
    "no image": ([], "hello world"),
    "one image": ([noise(1)], "[vqa] what is the colour of the car?"),
    "another image": ([noise(2)], "[vqa] what is the colour of the car?"),
    "two images": ([noise(1), noise(2)], "describe this image"),
    "two images, the other way round": ([noise(2), noise(1)], "describe this image"),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loud_tiny(tmp_path_factory.mktemp("vllm") / "tiny")


def parts(kind: str, field: str, images: list[Image.Image], text: str) -> list[dict[str, Any]]:
    """Content parts: images, each in `field` of a part of type `kind`, and the text after them."""
    return [{"type": kind, field: image} for image in images] + [{"type": "text", "text": text}]


@dataclass(frozen=True)
class KeptRelease:
    """A converted checkpoint in the release's layout, its adapter kept apart, and our own engine's answers."""

    directory: Path
    adapter: Path
    without: dict[str, Completion]
    adapted: dict[str, Completion]


@pytest.fixture(scope="session")
def kept_release(tmp_path_factory: pytest.TempPathFactory) -> KeptRelease:
    """Heads are wider than in other tests of the converter: vLLM's CPU attention has none below 32."""
    from fourfold.assistant.checkpoints.original.convert import convert
    from tests.assistant.checkpoints.release_files import IMAGE_SIZE, make_release

    root = tmp_path_factory.mktemp("release")
    paths = make_release(root, heads=2).write().paths()
    result = convert(**paths, out=root / "released", dtype="float32", image_size=IMAGE_SIZE, keep_adapter=True)
    assert result.adapter is not None
    with Engine.load(result.directory, dtype="float32", device="cpu", adapter=result.adapter) as ours:
        name = ours.default_adapter
        return KeptRelease(result.directory, result.adapter, answers(ours, adapter=""), answers(ours, adapter=name))


def answers(ours: Engine, adapter: str | None = None) -> dict[str, Completion]:
    """To each of `QUESTIONS`, one at a time: a batch rounds differently."""
    return {
        name: ours.generate(
            [Request([{"role": "user", "content": parts("image", "image", *question)}], SAMPLING, adapter)]
        )[0]
        for name, question in QUESTIONS.items()
    }


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Completion]]:
    """A checkpoint of 6 x 6 patches folded 2 x 2, which rows of four do not divide, and our own engine's answers."""
    directory = write_loud_tiny(tmp_path_factory.mktemp("vllm") / "square", image_size=96, fold_shape="square")
    with Engine.load(directory, dtype="float32", device="cpu") as ours:
        return directory, answers(ours)


@pytest.fixture(scope="session")
def local(
    checkpoint: Path, kept_release: KeptRelease, square: tuple[Path, dict[str, Completion]]
) -> dict[str, Completion]:
    """What our own engine answers to `QUESTIONS`.

    This, `kept_release`, `square` and `adapter` come before vLLM in this process: it changes the classes of
    transformers, which then cannot be built without it.
    """
    with Engine.load(checkpoint, dtype="float32", device="cpu") as ours:
        return answers(ours)


@pytest.fixture(scope="session")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter of MiniGPT-v2's rank, with weights that change every answer."""
    from peft import LoraConfig, get_peft_model

    from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

    torch.manual_seed(0)
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint)
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = LoraConfig(r=64, lora_alpha=128, target_modules=targets, init_lora_weights=False)
    directory = tmp_path_factory.mktemp("adapter") / "taught"
    get_peft_model(model, config).save_pretrained(directory)
    return directory


@contextmanager
def engine(directory: Path, **options: Any) -> Iterator[Any]:
    """vLLM in this process, without a server. Whoever uses it must ask for `local` and `adapter` first."""
    os.environ.update(ENVIRONMENT, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    settings = {"max_model_len": CONTEXT, "enforce_eager": True, "limit_mm_per_prompt": {"image": 4}}
    llm = LLM(str(directory), **settings | options)
    try:
        yield llm
    finally:
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


@dataclass(frozen=True)
class Server:
    """A running server and how to reach it."""

    url: str
    name: str
    log: Path

    def request(self, method: str, path: str, key: str | None = USER_KEY, **options: Any) -> httpx.Response:
        """One HTTP request."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **options)

    def chat(self, *parts: dict[str, Any], **options: Any) -> httpx.Response:
        """One question, its parts as given."""
        body = {"model": self.name, "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 8} | options
        return self.request("POST", "/v1/chat/completions", json=body)

    def client(self) -> OpenAI:
        """OpenAI's own client."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=USER_KEY, max_retries=0)


@contextmanager
def launched(
    directory: Path, log: Path, *extra: str, quantization: str = "", user: str = USER_KEY, admin: str = ADMIN_KEY
) -> Iterator[Server]:
    """`launch_vllm` in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(directory), str(port), quantization, user, admin, "--max-model-len", str(CONTEXT), *extra]
    server = Server(f"http://127.0.0.1:{port}", directory.name, log)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *arguments],
            env={**os.environ, **ENVIRONMENT, "VLLM_LOGGING_LEVEL": "INFO", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, server)
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM), log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def litellm_answer(url: str, model: str) -> str:
    """What the LiteLLM snippet of docs/serving.md prints when it asks `model` at `url`."""
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = (
        code for code in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "litellm" in code
    )
    code = code.replace("http://127.0.0.1:8000/v1", url).replace("fourfold-mini", model)
    environment = {**os.environ, "FOURFOLD_KEY": USER_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout.strip()


def _wait(process: subprocess.Popen[bytes], server: Server) -> None:
    until = time.monotonic() + 540
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start: {server.log.read_text()[-3000:]}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Its own engine loads several checkpoints, which it cannot once vLLM has run in this process.
    items.sort(key=lambda item: item.path.name != "test_quantized.py")
