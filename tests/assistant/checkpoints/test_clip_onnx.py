"""The INT8 image tower, read from ONNX."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionModel

from fourfold.assistant.checkpoints.clip_onnx import read_clip_vision
from fourfold.assistant.checkpoints.weights import IMAGE_TOWER, fetch
from fourfold.assistant.progress import progress_bar
from tests.assistant.checkpoints.tiny_weights import tiny_tower, write_onnx


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("onnx") / "tower.onnx"
    return path, write_onnx(path, tiny_tower())


def test_every_weight_is_found_and_no_other(written: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, expected = written
    config, weights = read_clip_vision(path)
    assert set(weights) == set(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-6, atol=1e-7, msg=key)
    CLIPVisionModel(config).load_state_dict(weights, strict=True)


def test_sizes_come_from_the_arrays(written: tuple[Path, dict[str, torch.Tensor]]) -> None:
    config, _ = read_clip_vision(written[0])
    original = tiny_tower().config
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "hidden_act",
    ):
        assert getattr(config, name) == getattr(original, name), name


def test_the_tower_computes_what_it_did_before_quantisation(written: tuple[Path, dict[str, torch.Tensor]]) -> None:
    config, weights = read_clip_vision(written[0])
    read, original = CLIPVisionModel(config).eval(), tiny_tower()
    read.load_state_dict(weights)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        cosine = torch.cosine_similarity(read(pixels).last_hidden_state, original(pixels).last_hidden_state, dim=-1)
    assert cosine.min() > 0.999


def test_another_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), path)
    with pytest.raises(ValueError, match="not a CLIP image tower"):
        read_clip_vision(path)


def test_a_missing_scale_is_named(tmp_path: Path, written: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model = onnx.load(written[0])
    scales = [tensor for tensor in model.graph.initializer if tensor.name.endswith("_scale")]
    model.graph.initializer.remove(scales[0])
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match=scales[0].name):
        read_clip_vision(tmp_path / "broken.onnx")


def _without_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every quantised product made an ordinary one: x W in float32."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"}
    for product in [node for node in model.graph.node if node.op_type == "MatMulInteger"]:
        base = product.input[1].removesuffix("_quantized")
        matrix = (arrays[product.input[1]] - arrays[f"{base}_zero_point"].astype("f4")) * arrays[f"{base}_scale"]
        model.graph.initializer.append(numpy_helper.from_array(matrix.astype("f4"), f"{base}_float"))
        scaled = next(node for node in model.graph.node if node.name == f"{product.name}_output_scale_mul")
        scaled.CopyFrom(onnx.helper.make_node("MatMul", [sources[product.input[0]], f"{base}_float"], scaled.output))
    return model


@pytest.mark.mini
def test_the_real_tower_computes_what_its_graph_says(shared_data: Path) -> None:
    """onnxruntime runs the graph itself, with its own activation, scaling and norms; only the rounding is removed."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra [ocr]")
    with progress_bar() as tell:
        path = fetch(IMAGE_TOWER, tell)
    config, weights = read_clip_vision(path)
    tower = CLIPVisionModel(config).eval()
    tower.load_state_dict(weights, strict=True)
    photos = sorted((shared_data / "photos/imagenet_sample/images").iterdir())[:4]
    pixels = CLIPImageProcessorPil()([Image.open(photo).convert("RGB") for photo in photos], return_tensors="pt")
    session = onnxruntime.InferenceSession(
        _without_integers(onnx.load(path)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    reference = torch.tensor(session.run(None, {"pixel_values": pixels.pixel_values.numpy()})[1])
    with torch.no_grad():
        hidden = tower(pixels.pixel_values).last_hidden_state
    torch.testing.assert_close(hidden, reference, atol=1e-3, rtol=1e-3)
