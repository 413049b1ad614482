"""CLIP's image tower out of an ONNX file with INT8 weights."""

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig

from fourfold.assistant.checkpoints.damage import told_as_damage
from fourfold.prompts.errors import UserError

# Heads and activation are not in the file as numbers; every CLIP ViT has heads of 64 channels and x·sigmoid(1.702 x).
_HEAD_WIDTH = 64
_ACTIVATION = "quick_gelu"


def read_clip_vision(path: Path) -> tuple[CLIPVisionConfig, dict[str, torch.Tensor]]:
    """Read the tower that `optimum` exported and `onnxruntime` quantised (dynamic, per output channel).

    A quantised matrix W is stored transposed as int8 with a scale and a zero point for each output channel:
    W = (q - zero point) * scale. Biases, norms and embeddings are float32. The projection into CLIP's shared space
    is left out.

    Args:
        path: the ONNX file.

    Returns:
        Configuration, and the float32 weights under the names of transformers' `CLIPVisionModel`.

    Raises:
        UserError: the file is damaged, or the graph is not such a tower.
    """
    with told_as_damage(path):
        return _read(path)


def _read(path: Path) -> tuple[CLIPVisionConfig, dict[str, torch.Tensor]]:
    import onnx
    from onnx import numpy_helper

    # A file may name others for its numbers, wherever they lie; it is told to be damaged when they are asked for.
    graph = onnx.load(path, load_external_data=False).graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}

    def array(name: str) -> np.ndarray:
        if name not in arrays:
            raise UserError(f"{path.name}: the graph has no array {name!r}")
        if arrays[name].data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{path.name}: {name!r} lies in another file, which is not read")
        return numpy_helper.to_array(arrays[name])

    weights: dict[str, torch.Tensor] = {}
    for name in arrays:
        if name.startswith("vision_model."):
            weights[name.removeprefix("vision_model.")] = torch.tensor(array(name))
    for node in graph.node:
        if node.op_type != "MatMulInteger" or node.input[1] not in arrays:
            continue
        # "/vision_model/encoder/layers.0/self_attn/q_proj/MatMul_quant" says whose weight it is; the arrays' own
        # names ("onnx::MatMul_1541_quantized") do not.
        module = node.name.strip("/").rsplit("/", 1)[0].replace("/", ".")
        if not module.startswith("vision_model."):
            continue
        quantized = array(node.input[1]).astype(np.float32)
        scale = array(node.input[1].removesuffix("_quantized") + "_scale")
        zero_point = array(node.input[3]).astype(np.float32)
        matrix = (quantized - zero_point) * scale
        weights[f"{module.removeprefix('vision_model.')}.weight"] = torch.tensor(matrix.T.copy())
    return _config_of(weights, path.name), weights


def _config_of(weights: dict[str, torch.Tensor], name: str) -> CLIPVisionConfig:
    try:
        width, _, patch, _ = weights["embeddings.patch_embedding.weight"].shape
        positions = len(weights["embeddings.position_embedding.weight"])
        inner = len(weights["encoder.layers.0.mlp.fc1.weight"])
    except KeyError as error:
        raise UserError(f"{name}: no {error.args[0]} in it, so it is not a CLIP image tower") from error
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=sum(key.endswith("mlp.fc1.weight") for key in weights),
        num_attention_heads=width // _HEAD_WIDTH,
        patch_size=patch,
        image_size=round((positions - 1) ** 0.5) * patch,
        hidden_act=_ACTIVATION,
    )
