import torch
from PIL import Image
from torch import nn
from transformers import SiglipVisionConfig

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.assistant.model.bf16 import BF16Linear, cast_linears_to_bf16
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.torch_backend import loading as torch_loading
from tests.tiny import save_tiny_checkpoint, tiny_config, tiny_model


def test_a_bf16_layer_takes_and_gives_float32_and_is_near():
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 32), torch.randn(2, 5, 64)
    near = BF16Linear(linear)
    out, exact = near(x), linear(x)
    assert out.dtype == torch.float32 and out.shape == exact.shape
    assert 0 < (out - exact).norm() / exact.norm() < 0.01
    assert not list(near.parameters())


def test_every_linear_layer_below_is_replaced_and_nothing_else():
    model = tiny_model(vocab_size=300)
    pixels = torch.rand(1, 3, model.config.vision_config.image_size, model.config.vision_config.image_size)
    with torch.inference_mode():
        exact = model.model.encode_images(pixels)
        cast_linears_to_bf16(model.model.vision_tower)
        near = model.model.encode_images(pixels)
    assert not any(type(module) is nn.Linear for module in model.model.vision_tower.modules())
    assert any(type(module) is nn.Linear for module in model.model.language_model.modules())
    assert 0 < (near - exact).norm() / exact.norm() < 0.02


def test_the_engine_casts_a_tower_of_torchs_where_int8_is_taken_and_the_processor_can(tmp_path, monkeypatch):
    """A tower that onnxruntime does not compute here: SigLIP's."""
    config = tiny_config(vocab_size=401)
    sizes = {name: getattr(config.vision_config, name) for name in ("hidden_size", "image_size", "patch_size")}
    config.vision_config = SiglipVisionConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    torch.manual_seed(0)
    save_tiny_checkpoint(tmp_path)
    MiniGPTv2ForConditionalGeneration(config).save_pretrained(tmp_path)
    for dtype, can in (("int8", True), ("int8", False), ("float32", True)):
        monkeypatch.setattr(torch_loading, "has_fast_bf16", lambda device, can=can: can)
        with Engine.load(tmp_path, dtype=dtype, device="cpu") as engine:
            assert engine.vision_features(Image.new("RGB", (50, 40))).shape == (4, 4, 32)
            tower = engine.model_runner.in_torch.model.model.vision_tower
            cast = any(isinstance(module, BF16Linear) for module in tower.modules())
            assert cast is (can and dtype == "int8")
