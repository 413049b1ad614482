"""The image tower in onnxruntime against the one in torch."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from fourfold.assistant.checkpoints.mapped_weights import MappedWeights, under
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.serving.engine.onnx_backend import vision as onnx_vision
from fourfold.serving.engine.onnx_backend.graph import Graph
from fourfold.serving.engine.onnx_backend.vision import OnnxVisionTower, choose_tower_format
from fourfold.serving.engine.onnx_backend.vision_graph import TowerFormat, can_be_built, on_grid
from fourfold.serving.engine.prompt.pixels import PixelReader, image_settings
from tests.tiny import tiny_config, tiny_model

SIZE = 64


def tower_model(activation: str = "quick_gelu") -> MiniGPTv2ForConditionalGeneration:
    """The tiny model with weights of 8 bits in its tower, large enough for every part of it to matter."""
    torch.manual_seed(0)
    config = tiny_config()
    config.vision_config.hidden_act = activation
    model = MiniGPTv2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.model.vision_tower.named_parameters():
            if parameter.dim() == 2 and "embedding" not in name:
                scale = parameter.abs().amax(1, keepdim=True) / 127
                parameter.copy_((parameter / scale).round() * scale * 3)
            elif "bias" in name or "class" in name:
                parameter.normal_(std=0.5)
    return model


def onnx_tower(
    model: MiniGPTv2ForConditionalGeneration, weights: TowerFormat = "float32", threads: int = 1
) -> OnnxVisionTower:
    tensors = {name: tensor.numpy() for name, tensor in model.model.vision_tower.state_dict().items()}
    return OnnxVisionTower(tensors, model.config.vision_config.to_dict(), weights, now=lambda: threads)


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@pytest.fixture(scope="module")
def int8() -> TowerFormat:
    if choose_tower_format() != "int8":
        pytest.skip("this processor has no use for int8")
    return "int8"


@pytest.fixture(scope="module")
def model() -> MiniGPTv2ForConditionalGeneration:
    return tower_model()


@pytest.fixture(scope="module")
def exact(model: MiniGPTv2ForConditionalGeneration) -> np.ndarray:
    return model.model.encode_images(torch.from_numpy(pixels(3))).numpy()


def test_float32_features_are_those_of_torch(model: MiniGPTv2ForConditionalGeneration, exact: np.ndarray) -> None:
    found = onnx_tower(model).encode(pixels(3))
    assert found.shape == exact.shape == (3, 16, 32)
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_the_other_activation_of_clip() -> None:
    model = tower_model("gelu")
    exact = model.model.encode_images(torch.from_numpy(pixels(1))).numpy()
    np.testing.assert_allclose(onnx_tower(model).encode(pixels(1)), exact, atol=1e-4)


def test_int8_is_close_where_the_weights_are_made_for_it(
    model: MiniGPTv2ForConditionalGeneration, exact: np.ndarray, int8: TowerFormat
) -> None:
    tower = onnx_tower(model, int8)
    assert tower.weight_bytes < onnx_tower(model).weight_bytes
    found = tower.encode(pixels(3))
    assert 0 < relative(found, exact) < 1e-3


def test_other_weights_are_multiplied_in_float32_even_so() -> None:
    model = tiny_model()
    tower = onnx_tower(model, "int8")
    assert tower.weight_bytes == onnx_tower(model).weight_bytes
    exact = model.model.encode_images(torch.from_numpy(pixels(1))).numpy()
    np.testing.assert_allclose(tower.encode(pixels(1)), exact, atol=1e-4)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_an_image_has_the_same_features_in_company(
    model: MiniGPTv2ForConditionalGeneration, weights: TowerFormat
) -> None:
    tower = onnx_tower(model, weights)
    together = tower.encode(pixels(3))
    for image, features in zip(pixels(3), together, strict=True):
        np.testing.assert_array_equal(tower.encode(image[None])[0], features)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_threads_change_no_feature(model: MiniGPTv2ForConditionalGeneration, weights: TowerFormat) -> None:
    alone, both = (onnx_tower(model, weights, threads).encode(pixels(2)) for threads in (1, 2))
    np.testing.assert_array_equal(alone, both)


def test_black_pixels_and_dead_rows_do_no_harm(int8: TowerFormat) -> None:
    """A row of zeros has no scale."""
    dead = tower_model()
    with torch.no_grad():
        dead.model.vision_tower.encoder.layers[0].layer_norm1.weight.zero_()
        dead.model.vision_tower.encoder.layers[0].layer_norm1.bias.zero_()
    zeros = np.zeros((1, 3, SIZE, SIZE), np.float32)
    exact = dead.model.encode_images(torch.from_numpy(zeros)).numpy()
    assert relative(onnx_tower(dead, int8).encode(zeros), exact) < 1e-3


def test_weights_on_a_grid_are_found() -> None:
    whole = np.random.default_rng(0).integers(-127, 128, (6, 32)).astype(np.float32)
    whole[:, 0] = 127
    scales = np.array([1e-3, 2e-3, 0.5, 7, 1e-9, 0], np.float32)
    weight = whole * scales[:, None]
    found = on_grid(weight)
    assert found is not None
    np.testing.assert_array_equal(found[0][:5], whole[:5])
    np.testing.assert_allclose(found[1], scales, rtol=1e-6)
    assert not found[0][5].any()
    assert on_grid(weight.astype(np.float16).astype(np.float32)[:4]) is not None  # as a checkpoint in half precision
    assert on_grid(np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)) is None


@pytest.mark.parametrize(
    ("changes", "possible"),
    [
        ({}, True),
        ({"hidden_act": "gelu"}, True),
        ({"hidden_act": "relu"}, False),
        ({"model_type": "blip_2_vision_model"}, False),
        ({"num_attention_heads": 5}, False),
    ],
)
def test_which_towers_can_be_built(changes: dict[str, Any], possible: bool) -> None:
    config = tiny_config().vision_config.to_dict()
    assert can_be_built(config | changes) is possible


def test_a_tower_of_unsaid_sizes_cannot_be_built() -> None:
    config = tiny_config().vision_config.to_dict()
    del config["layer_norm_eps"]
    assert not can_be_built(config)


class Product:
    """A session whose products take a while, or are wrong, in int8."""

    def __init__(self, graph: Graph, slow: bool, wrong: bool) -> None:
        int8 = graph.weights["product.weight"].dtype == np.int8
        self.seconds = 0.02 if int8 is slow else 0
        self.result = np.array([1.1 if int8 and wrong else 1.0])

    def run(self, outputs: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        time.sleep(self.seconds)
        return [self.result]


@pytest.mark.parametrize(
    ("slow", "wrong", "chosen"), [(False, False, "int8"), (True, False, "float32"), (False, True, "float32")]
)
def test_the_format_is_the_faster_one_that_is_right(
    slow: bool, wrong: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_vision, "cpu_session", lambda graph, threads: Product(graph, slow, wrong))
    assert choose_tower_format.__wrapped__() == chosen


@pytest.mark.mini
@pytest.mark.parametrize(("weights", "error", "cosine"), [("float32", 1e-4, 0.99999), ("int8", 2e-3, 0.9999)])
def test_photos_look_the_same_to_the_default_models_tower(
    weights: TowerFormat, error: float, cosine: float, shared_data: Path
) -> None:
    if weights == "int8" and choose_tower_format() != "int8":
        pytest.skip("this processor has no use for int8")
    directory = resolve_model("fourfold-mini")
    tensors = under("model.vision_tower", MappedWeights([directory / "model.safetensors"]))
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))["vision_config"]
    in_torch = CLIPVisionModel(CLIPVisionConfig(**config)).eval()
    in_torch.post_layernorm = torch.nn.Identity()
    in_torch.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})
    reader = PixelReader(image_settings(directory))
    photos = sorted((shared_data / "photos" / "voc2012_100" / "images").iterdir())[::34]
    shown = np.concatenate([reader(Image.open(photo)) for photo in photos])
    with torch.no_grad():
        exact = in_torch(torch.from_numpy(shown)).last_hidden_state[:, 1:].numpy()
    found = OnnxVisionTower(tensors, config, weights, now=lambda: 1).encode(shown)
    assert relative(found, exact) < error
    # Patch by patch, normed as what reads them norms them.
    left, right = ((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for x in (found, exact))
    assert (left * right).mean(-1).min() > cosine
