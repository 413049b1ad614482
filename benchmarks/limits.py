"""The machine, and what it could do at best: the yardsticks beside every figure."""

import io
import platform
import re
from pathlib import Path

import torch
from PIL import Image

from benchmarks.figures import Figure, seconds
from fourfold.assistant.extras import installed_version

_BANDWIDTH_BYTES = 256 * 2**20  # far beyond any cache
_SQUARE = 1024
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimddp", "bf16")
"""Of /proc/cpuinfo: what decides in which format numbers are multiplied fast (the last two are ARM's)."""


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


def versions(*packages: str) -> dict[str, str | None]:
    """Of Python and of packages; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: installed_version(name) for name in packages}}


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
