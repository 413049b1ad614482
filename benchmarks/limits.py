"""What this machine could do at best: the yardsticks beside every figure."""

import io
import time
from collections.abc import Callable

import torch
from PIL import Image

from benchmarks.figures import Figure

_BANDWIDTH_BYTES = 256 * 2**20  # far beyond any cache
_SQUARE = 1024


def bandwidth() -> float:
    """GB/s at which weights can be read: one product of a large float32 matrix and a vector."""
    matrix, vector = _matrix(), torch.ones(4096)
    return matrix.nbytes / _seconds(lambda: torch.mv(matrix, vector)) / 1e9


def matmul_rate() -> float:
    """GFLOP/s of float32 matrix products."""
    square = torch.ones(_SQUARE, _SQUARE)
    return 2 * _SQUARE**3 / _seconds(lambda: square @ square) / 1e9


def limits(rounds: int) -> dict[str, Figure]:
    """Bandwidth and matrix products: the best of each round's three."""
    figures = {"memory": Figure("memory bandwidth", "GB/s"), "matmul": Figure("float32 matrix product", "GFLOP/s")}
    with torch.inference_mode():
        bandwidth(), matmul_rate()
        for _ in range(rounds):
            figures["memory"].runs.append(max(bandwidth() for _ in range(3)))
            figures["matmul"].runs.append(max(matmul_rate() for _ in range(3)))
    return figures


def photo(megapixels: int = 12, quality: int = 90) -> bytes:
    """A JPEG of a camera's size, of the repository's own sample picture with some grain: real detail costs time."""
    from pathlib import Path

    sample = Image.open(Path(__file__).parents[1] / "fourfold" / "samples" / "table.jpg").convert("RGB")
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    picture = sample.resize((height * 4 // 3, height), Image.Resampling.BICUBIC)
    grain = torch.randint(0, 24, (height, picture.width, 3), generator=torch.Generator().manual_seed(0))
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(height, picture.width, 3)
    noisy = (pixels.int() + grain - 12).clamp(0, 255).to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy.numpy()).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def jpeg_decode_seconds(data: bytes) -> float:
    """libjpeg's own time for a JPEG, at an eighth of its size: it has to read every byte even so."""

    def decode() -> None:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (image.width // 8, image.height // 8))
            image.load()

    return _seconds(decode)


def _matrix() -> torch.Tensor:
    return torch.full((_BANDWIDTH_BYTES // 4 // 4096, 4096), 0.01)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
