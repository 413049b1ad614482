"""In which number format a model runs fastest here, and on how many threads."""

import json
import os
import time
from itertools import cycle
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from prompts.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# A typical turn: an image and some words are read, a few dozen tokens are said.
_READ_TOKENS, _SAID_TOKENS = 128, 48
# float32 is the safer format, and the measurement leaves out what both have in common (all the small operators): the
# other has to be clearly faster.
_MARGIN = 0.5
_BEYOND_CACHES = 96 * 2**20


def free_cores() -> int:
    """Cores that this process may use and that nobody uses now, at least 1.

    One thread too many costs far more than it brings: at every operator all threads wait for the one that another
    program has pushed aside.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            allowed = min(allowed, max(1, int(limit) // int(period)))
    return max(1, allowed - _busy_elsewhere())


def _busy_elsewhere() -> int:
    """Threads of other programs that keep running over several looks."""
    return min(_running_elsewhere() for _ in range(3))


def _running_elsewhere() -> int:
    """Threads that run at this moment, but for our own."""
    loadavg = Path("/proc/loadavg")
    if not loadavg.is_file():
        return 0
    time.sleep(0.005)
    return max(0, int(loadavg.read_text().split()[3].split("/")[0]) - 1)


def choose_dtype(name: str, config: PreTrainedConfig, device: torch.device, memo: Path | None = None) -> torch.dtype:
    """The number format to load a model in.

    Args:
        name: one of `DTYPES`, or "auto": on CUDA bfloat16 where the device has it, else float16; on a CPU float32
            unless a short measurement on a quiet machine finds bfloat16 clearly faster for a typical turn.
        config: of the model, for its matrix shapes.
        device: to load on.
        memo: file that keeps the measurement's result, so that the next start is quicker and answers alike.

    Raises:
        UserError: there is no such format.
    """
    if name != "auto":
        if name not in DTYPES:
            raise UserError(f"no dtype is called {name!r}; there are: auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    text, vision = config.text_config, config.vision_config
    key = (
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"text {text.hidden_size}x{text.intermediate_size}x{text.num_hidden_layers}, "
        f"vision {vision.hidden_size}x{vision.num_hidden_layers}x{config.grid_width}"
    )
    known = _read(memo)
    if known.get(key) not in DTYPES:
        if _busy_elsewhere():
            # Beside other programs the measurement says more about them; a later start on a quiet machine takes it.
            return torch.float32
        cost = {name: turn_cost(config, DTYPES[name]) for name in ("float32", "bfloat16")}
        known[key] = "bfloat16" if cost["bfloat16"] < _MARGIN * cost["float32"] else "float32"
        _write(memo, known)
    return DTYPES[known[key]]


def turn_cost(config: PreTrainedConfig, dtype: torch.dtype) -> float:
    """Estimated seconds of a typical turn's matrix products: vision tower, prompt, answer.

    Measured on matrices of the language model's MLP, as many as no cache holds, so that the answer's products wait for
    memory as they do in the model.
    """
    text, vision = config.text_config, config.vision_config
    size = text.hidden_size * text.intermediate_size
    copies = max(2, min(32, -(-_BEYOND_CACHES // (size * dtype.itemsize))))
    matrices = [torch.full((text.intermediate_size, text.hidden_size), 0.01, dtype=dtype) for _ in range(copies)]
    said = _seconds_per_product(torch.ones(1, text.hidden_size, dtype=dtype), matrices, copies) / size
    read = _seconds_per_product(torch.ones(_READ_TOKENS, text.hidden_size, dtype=dtype), matrices, 4) / size
    text_weights = text.num_hidden_layers * 4 * size + text.vocab_size * text.hidden_size
    vision_weights = vision.num_hidden_layers * 12 * vision.hidden_size**2
    images = config.grid_width**2 / _READ_TOKENS
    return text_weights * (read + _SAID_TOKENS * said) + vision_weights * images * read


def _seconds_per_product(inputs: torch.Tensor, matrices: list[torch.Tensor], products: int) -> float:
    best = float("inf")
    with torch.inference_mode():
        for _ in range(4):  # the least of several: other programs only ever add time
            started = time.perf_counter()
            for _, matrix in zip(range(products), cycle(matrices), strict=False):
                torch.nn.functional.linear(inputs, matrix)
            best = min(best, (time.perf_counter() - started) / products)
    return best


def _read(memo: Path | None) -> dict[str, str]:
    try:
        known = json.loads(memo.read_text(encoding="utf-8")) if memo else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(memo: Path | None, known: dict[str, str]) -> None:
    if memo is None:
        return
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        part = memo.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(known, indent=1), encoding="utf-8")
        part.replace(memo)
    except OSError:  # a read-only cache only costs the measurement at the next start
        return
