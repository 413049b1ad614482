import torch
from torch import nn

from fourfold.assistant.model.bf16 import BF16Linear, cast_linears_to_bf16
from fourfold.serving.engine import loading
from fourfold.serving.engine.engine import Engine
from tests.tiny import tiny_model


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


def test_the_engine_casts_the_tower_where_int8_is_taken_and_the_processor_can(tiny_checkpoint, monkeypatch):
    for can in (True, False):
        monkeypatch.setattr(loading, "has_fast_bf16", lambda device, can=can: can)
        with Engine.load(tiny_checkpoint, dtype="int8", device="cpu") as engine:
            tower = engine.model_runner.model.model.vision_tower
            assert any(isinstance(module, BF16Linear) for module in tower.modules()) is can
    with Engine.load(tiny_checkpoint, dtype="float32", device="cpu") as engine:
        tower = engine.model_runner.model.model.vision_tower
        assert not any(isinstance(module, BF16Linear) for module in tower.modules())
