"""In which number format a model runs here, and on how many threads."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedConfig

from fourfold.assistant.model.bf16 import has_fast_bf16
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.onnx_graph import WeightFormat, can_be_built, product_graph
from fourfold.serving.engine.quantization import Quantization

DtypeName = Literal["auto", "int8", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class NumberFormat:
    """How a loaded model keeps its numbers.

    Attributes:
        dtype: of everything that torch computes.
        decoder: of the weights of the language model's products where onnxruntime computes it (`Decoder`); None where
            torch does.
        bf16_tower: whether the image tower's products are in bfloat16, between activations in `dtype`.
    """

    dtype: torch.dtype
    decoder: WeightFormat | None = None
    bf16_tower: bool = False


def free_cores() -> int:
    """Cores that this process may use and that nobody uses now, at least 1; never more than `OMP_NUM_THREADS` says.

    One thread too many costs far more than it brings: at every operator all threads wait for the one that another
    program has pushed aside.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            allowed = min(allowed, max(1, int(limit) // int(period)))
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit():
        allowed = min(allowed, int(wanted))
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


def choose_format(
    name: DtypeName, config: PreTrainedConfig, device: torch.device, quantization: Quantization | None = None
) -> NumberFormat:
    """The number format to load a model in.

    onnxruntime computes the language model where it is a plain LLaMA on a CPU, in float32 or with int8 weights, and
    bitsandbytes has no part in it; torch computes everything else.

    Args:
        name: "auto" takes bfloat16 on CUDA where the device has it, else float16; on a CPU int8 for the language
            model where the processor is good at it, and float32 for the rest but the image tower's products, which
            are bfloat16 where the processor has instructions for them ("int8" the same).
        config: of the model.
        device: to load on.
        quantization: by bitsandbytes.

    Raises:
        UserError: there is no such format, or not here.
    """
    if name not in ("auto", "int8", *_DTYPES):
        raise UserError(f"no dtype is called {name!r}; there are: auto, int8, {', '.join(_DTYPES)}")
    if name == "auto" and device.type == "cuda":
        return NumberFormat(torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    dtype = _DTYPES.get(name, torch.float32)
    possible = device.type == "cpu" and quantization is None and can_be_built(config.text_config)
    if name == "int8" and not possible:
        raise UserError("int8 is for plain LLaMA language models on a CPU, without bitsandbytes; choose another dtype")
    if not possible or dtype != torch.float32:
        return NumberFormat(dtype)
    if name == "int8" or (name == "auto" and int8_is_good()):
        return NumberFormat(dtype, "int8", bf16_tower=has_fast_bf16(device))
    return NumberFormat(dtype, "float32")


@cache
def int8_is_good() -> bool:
    """Whether this processor multiplies with int8 weights correctly and faster than in float32; takes milliseconds.

    onnxruntime has kernels for processors with instructions for it; on others it unpacks all weights at every product.
    """
    import onnxruntime

    outputs, inputs = 4096, 1024
    # The largest sums that can come up: where a kernel adds in 16 bits, they show it.
    weight = torch.ones(outputs, inputs)
    weight[1::2] = -1
    graph = product_graph(weight)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    ones = torch.ones(1, inputs)
    feeds = {"inputs": ones.numpy()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exact = torch.nn.functional.linear(ones, weight)
        found = torch.from_numpy(session.run(None, feeds)[0])
        right = torch.allclose(found, exact, rtol=0.02)
        int8 = min(_seconds(lambda: session.run(None, feeds)) for _ in range(7))
        float32 = min(_seconds(lambda: torch.nn.functional.linear(ones, weight)) for _ in range(7))
    finally:
        torch.set_num_threads(threads)
    return right and int8 < float32


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
