"""4-bit weights in vLLM: of the language model, and of nothing else."""

from pathlib import Path
from typing import Any

import pytest

from fourfold.serving.engine.engine import Completion
from fourfold.serving.vllm.launch import MAX_LORA_RANK
from fourfold.serving.vllm.plugin import QUANTIZATION_4BIT
from tests.serving.vllm.conftest import engine, noise

pytestmark = pytest.mark.vllm


def test_language_model_alone_is_quantised_and_answers_with_adapters(
    checkpoint: Path, local: dict[str, Completion], adapter: Path
) -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    def answer(lora: LoRARequest | None = None) -> list[int]:
        content = [{"type": "image_pil", "image_pil": noise(1)}, {"type": "text", "text": "hello world"}]
        outputs = llm.chat(
            [{"role": "user", "content": content}],
            SamplingParams(temperature=0, max_tokens=8),
            chat_template_content_format="openai",
            lora_request=lora,
            use_tqdm=False,
        )
        return list(outputs[0].outputs[0].token_ids)

    taught = LoRARequest("taught", 1, str(adapter))
    quantized = {"quantization": QUANTIZATION_4BIT, "load_format": "bitsandbytes", "dtype": "bfloat16"}
    with engine(checkpoint, **quantized, enable_lora=True, max_lora_rank=MAX_LORA_RANK) as llm:
        stored = llm.apply_model(_stored_types)[0]
        before, with_adapter, after = answer(), answer(taught), answer()
    assert before == after != with_adapter
    low_bit = {name for name, kind in stored.items() if kind == "torch.uint8"}
    assert len(low_bit) == 8  # in both layers: qkv, output, gate and up, down
    assert all(name.startswith("model.language_model.layers.") for name in low_bit)
    assert any(name.startswith("model.vision_tower.") for name in stored)
    assert stored["model.projector"] == "torch.bfloat16"


def _stored_types(model: Any) -> dict[str, str]:
    """Stored type of every layer's weight, under its name without adapters."""
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "quant_method")}
    return {name.removesuffix(".base_layer"): str(layer.weight.dtype) for name, layer in layers.items()}
