"""Checkpoints of `fourfold quantize` in vLLM: what it computes in few bits, and that it answers as our engine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fourfold.serving.engine.engine import Completion, Engine
from fourfold.serving.vllm.launch import MAX_LORA_RANK
from tests.serving.vllm.conftest import QUESTIONS, answers, engine, noise, parts

pytestmark = pytest.mark.vllm

SCHEMES = {"gptq": "CompressedTensorsWNA16", "awq": "CompressedTensorsWNA16", "int8": "CompressedTensorsW8A8Int8"}
# int8 rounds activations in vLLM and not in our engine.
TOLERANCE = {"gptq": 0.05, "awq": 0.05, "int8": 0.2}


@pytest.fixture(scope="module")
def quantized(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the command, which `make vllm-env` lets find llm-compressor in a folder of its own."""
    library = Path(sys.prefix) / "share" / "quantize"
    assert library.is_dir(), "run make vllm-env again"
    root = tmp_path_factory.mktemp("quantized")
    shutil.copytree(checkpoint, root / "source")
    # As the default model has read-outs: vLLM must not take them for weights.
    save_file({"boxes": torch.zeros(2)}, root / "source" / "readouts.safetensors")
    images = root / "images"
    images.mkdir()
    for seed in range(3):
        noise(seed).save(images / f"{seed}.png")
    for method in SCHEMES:
        command = ["quantize", str(root / "source"), str(root / method), "--images", str(images)]
        command += ["--method", method, "--chats", "16"]
        made = subprocess.run(
            [sys.executable, "-m", "fourfold.cli", *command],
            env={**os.environ, "PYTHONPATH": str(library)}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr[-3000:]
    return {method: root / method for method in SCHEMES}


@pytest.fixture(scope="module")
def ours(quantized: dict[str, Path], local: dict[str, Completion], adapter: Path) -> dict[str, dict[str, Completion]]:
    """What our engine answers; before vLLM in this process, as `local`, and the adapter too."""
    found = {}
    for method, directory in quantized.items():
        with Engine.load(directory, dtype="float32", device="cpu") as loaded:
            found[method] = answers(loaded)
    return found


@pytest.mark.parametrize("method", SCHEMES)
def test_serves(method: str, quantized: dict[str, Path], ours: dict[str, dict[str, Completion]]) -> None:
    from vllm import SamplingParams

    # vLLM's products of 4-bit weights on a CPU are in 16 bit only.
    with engine(quantized[method], dtype="bfloat16") as llm:
        schemes = llm.apply_model(_schemes)[0]
        conversations = [
            [{"role": "user", "content": parts("image_pil", "image_pil", *question)}] for question in QUESTIONS.values()
        ]
        outputs = llm.chat(
            conversations,
            SamplingParams(temperature=0, max_tokens=1, logprobs=20),
            chat_template_content_format="openai",
            use_tqdm=False,
        )
    few_bits = {name for name, scheme in schemes.items() if scheme == SCHEMES[method]}
    assert len(few_bits) == 8  # in both layers: qkv, output, gate and up, down
    assert all(name.startswith("model.language_model.layers.") for name in few_bits)
    assert not [name for name, scheme in schemes.items() if name not in few_bits and scheme is not None]
    for name, output in zip(QUESTIONS, outputs, strict=True):
        expected = ours[method][name]
        drawn, likely = output.outputs[0].token_ids[0], output.outputs[0].logprobs[0]
        assert likely[expected.token_ids[0]].logprob == pytest.approx(
            expected.logprobs[0].logprob, abs=TOLERANCE[method]
        ), name
        assert likely[drawn].logprob - likely[expected.token_ids[0]].logprob < TOLERANCE[method], name


def test_adapters_go_on_top(quantized: dict[str, Path], ours: dict[str, dict[str, Completion]], adapter: Path) -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    def answer(lora: LoRARequest | None = None) -> list[int]:
        conversation = [{"role": "user", "content": parts("image_pil", "image_pil", [noise(1)], "hello world")}]
        options = {"chat_template_content_format": "openai", "lora_request": lora, "use_tqdm": False}
        return list(
            llm.chat(conversation, SamplingParams(temperature=0, max_tokens=8), **options)[0].outputs[0].token_ids
        )

    taught = LoRARequest("taught", 1, str(adapter))
    with engine(quantized["gptq"], dtype="bfloat16", enable_lora=True, max_lora_rank=MAX_LORA_RANK) as llm:
        before, with_adapter, after = answer(), answer(taught), answer()
    assert before == after != with_adapter


def _schemes(model: Any) -> dict[str, str | None]:
    """How each linear layer is stored, None for as ever."""
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "quant_method")}
    linear = {name: layer for name, layer in layers.items() if hasattr(layer, "input_size")}
    return {name: type(layer.scheme).__name__ if hasattr(layer, "scheme") else None for name, layer in linear.items()}
