"""One benchmark run against three servers: ours, `transformers serve` and vLLM, and in this process."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.model import EngineModel, Model
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import live_server


@pytest.fixture(scope="module")
def pope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pope")
    rows = []
    for number in range(4):
        name = f"COCO_val2014_{number % 2:012d}.jpg"
        pixels = np.random.default_rng(number % 2).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        rows.append({"question_id": number + 1, "image": name, "text": f"Is there a thing {number}?", "label": "yes"})
    (folder / "pope.json").write_text("\n".join(map(json.dumps, rows)))
    return folder


def answers(pope: Path, model: Model, out: Path) -> list[dict[str, Any]]:
    run = run_benchmark(RunOptions("pope", pope, pope / "pope.json", out, model))
    assert (run.asked, run.failed) == (4, 0)
    assert run.result is not None and "asked_without" not in run.result.facts
    return [json.loads(line) for line in (out / "predictions.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def in_process(pope: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    with EngineModel(tiny_checkpoint, device="cpu", dtype="float32") as model:
        return answers(pope, model, tmp_path_factory.mktemp("here"))


def test_ours(pope: Path, tiny_checkpoint: Path, tmp_path: Path, in_process: list) -> None:
    with Engine.load(tiny_checkpoint, device="cpu", dtype="float32") as engine, live_server(engine) as live:
        assert answers(pope, EndpointModel([live.url]), tmp_path) == in_process


@pytest.fixture
def transformers_serve(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import transformers
    from transformers.cli.serve import Serve
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

    # It looks classes up in transformers itself, and by name what they take.
    monkeypatch.setitem(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "minigpt_v2", "MiniGPTv2ForConditionalGeneration")
    monkeypatch.setattr(transformers, "MiniGPTv2ForConditionalGeneration", MiniGPTv2ForConditionalGeneration, False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = Serve(str(tiny_checkpoint), host="127.0.0.1", port=port, device="cpu", dtype="float32", non_blocking=True)
    try:
        until = time.monotonic() + 60
        while not served.server.started and time.monotonic() < until:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        served.kill_server()


def test_transformers_serve(
    pope: Path, tiny_checkpoint: Path, tmp_path: Path, in_process: list, transformers_serve: str
) -> None:
    """It refuses fields that it does not know, such as our `memory`, and is asked without."""
    model = EndpointModel([transformers_serve], str(tiny_checkpoint))
    assert answers(pope, model, tmp_path / "out") == in_process


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_vllm(pope: Path, tiny_checkpoint: Path, tmp_path: Path, in_process: list) -> None:
    from tests.serving.vllm.conftest import USER_KEY, launched

    with launched(tiny_checkpoint, tmp_path / "log", "--dtype", "float32") as server:
        assert answers(pope, EndpointModel([server.url], api_key=USER_KEY), tmp_path / "out") == in_process
