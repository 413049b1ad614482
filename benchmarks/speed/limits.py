"""The machine, and what it could do at best: the yardsticks beside every figure."""

import io
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open

from benchmarks.figures import Figure, seconds
from fourfold.assistant.extras import installed_version

_BANDWIDTH_BYTES = 256 * 2**20  # far beyond any cache
_SQUARE = 1024
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimddp", "bf16")
"""Of /proc/cpuinfo: what decides in which format numbers are multiplied fast (the last two are ARM's); best last."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str | list[str]]:
    """The processor's `processor` name and those of its `flags` that decide how fast it multiplies (Linux)."""
    said = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    named = re.search(r"model name\s*:\s*(.+)", said)
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", said)
    has = set(flags[1].split()) if flags else set()
    return {
        "processor": named[1] if named else platform.processor(),
        "flags": [flag for flag in _FLAGS if flag in has],
    }


def kind_of(flags: Sequence[str]) -> str:
    """The kind of processor, by the best of its `flags`: figures of one kind say little about another."""
    return next((flag for flag in reversed(_FLAGS) if flag in flags), "plain")


def versions(*packages: str) -> dict[str, str | None]:
    """Of Python and of packages; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: installed_version(name) for name in packages}}


@dataclass(frozen=True)
class Work:
    """What a checkpoint's sizes say that has to be computed, whoever computes it.

    Attributes:
        token_weights: of the language model's layers and its head, all of which a token reads.
        prompt_flops: of a token of the prompt, which the head does not see; attention's own products left out.
        picture_flops: of a picture through the tower: its products for every patch, and attention's own.
    """

    token_weights: int
    prompt_flops: int
    picture_flops: int


def work_of(model: Path) -> Work:
    """Read from the headers of the weights' files and from config.json; nothing is loaded."""
    counts = {"layers": 0, "head": 0, "embeddings": 0, "tower": 0}
    for file in model.glob("model*.safetensors"):
        with safe_open(file, "numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no dict
                shape = weights.get_slice(name).get_shape()
                part = _part(name)
                if len(shape) > 1 and part:
                    counts[part] += int(torch.Size(shape).numel())
    vision = json.loads((model / "config.json").read_text(encoding="utf-8"))["vision_config"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    attention = vision["num_hidden_layers"] * 4 * patches**2 * vision["hidden_size"]
    return Work(
        counts["layers"] + (counts["head"] or counts["embeddings"]),  # the embeddings are the head where there is none
        2 * counts["layers"],
        2 * patches * counts["tower"] + attention,
    )


def _part(name: str) -> str | None:
    if "language_model.layers." in name:
        return "layers"
    if "vision_tower." in name and "position_embedding" not in name:
        return "tower"
    return {"lm_head.weight": "head", "model.language_model.embed_tokens.weight": "embeddings"}.get(name)


def bandwidth() -> float:
    """GB/s at which weights can be read: one product of a large float32 matrix and a vector."""
    matrix, vector = torch.full((_BANDWIDTH_BYTES // 4 // 4096, 4096), 0.01), torch.ones(4096)
    return matrix.nbytes / seconds(lambda: torch.mv(matrix, vector)) / 1e9


def matmul_rate() -> float:
    """GFLOP/s of float32 matrix products."""
    square = torch.ones(_SQUARE, _SQUARE)
    return 2 * _SQUARE**3 / seconds(lambda: square @ square) / 1e9


def limits(rounds: int) -> dict[str, Figure]:
    """Bandwidth and matrix products: the best of each round's three."""
    figures = {"memory": Figure("GB/s"), "matmul": Figure("GFLOP/s")}
    with torch.inference_mode():
        bandwidth(), matmul_rate()
        for _ in range(rounds):
            figures["memory"].runs.append(max(bandwidth() for _ in range(3)))
            figures["matmul"].runs.append(max(matmul_rate() for _ in range(3)))
    return figures


def jpeg_decode_seconds(data: bytes) -> float:
    """libjpeg's own time for a JPEG, at an eighth of its size: it has to read every byte even so."""

    def decode() -> None:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (image.width // 8, image.height // 8))
            image.load()

    return seconds(decode)
