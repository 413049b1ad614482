"""4-bit weights in vLLM: of the language model, and of nothing else."""

from pathlib import Path
from typing import Any

import pytest

from serving.vllm_plugin import QUANTIZATION_4BIT
from tests.serving.vllm.conftest import engine, noise

pytestmark = pytest.mark.vllm


def test_language_model_alone_is_quantised_and_answers(checkpoint: Path) -> None:
    from vllm import SamplingParams

    messages = [{"role": "user", "content": [{"type": "image_pil", "image_pil": noise(1)}]}]
    options = {"quantization": QUANTIZATION_4BIT, "load_format": "bitsandbytes", "dtype": "bfloat16"}
    with engine(checkpoint, **options) as llm:
        methods = llm.apply_model(_quantised)[0]
        sampling = SamplingParams(temperature=0, max_tokens=8)
        output = llm.chat(messages, sampling, chat_template_content_format="openai", use_tqdm=False)[0].outputs[0]
    assert len(output.token_ids) == 8 or output.finish_reason == "stop"
    quantised = {name for name, stored in methods.items() if stored == "torch.uint8"}
    # qkv, o, gate and up, down of both layers
    assert len(quantised) == 8
    assert all(name.startswith("model.language_model.layers.") for name in quantised)
    assert any(name.startswith("model.vision_tower.") for name in methods)
    assert methods["model.projector"] == "torch.bfloat16"


def _quantised(model: Any) -> dict[str, str]:
    """Stored type of every layer's weight."""
    return {name: str(layer.weight.dtype) for name, layer in model.named_modules() if hasattr(layer, "quant_method")}
