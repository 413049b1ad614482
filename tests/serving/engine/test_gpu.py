"""The engine on a CUDA device, against the CPU in float32."""

from pathlib import Path

import pytest
import torch

from fourfold.serving.engine.engine import Engine, Request, Sampling
from tests.serving.engine.conversations import Reference, ask, conversations

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_float32_says_what_the_cpu_says(checkpoint: Path, reference: Reference) -> None:
    with Engine.load(checkpoint, dtype="float32", device="cuda") as engine:
        for _ in range(2):  # the second time out of the caches
            requests = [Request(messages, Sampling(max_tokens=12, logprobs=0)) for messages in conversations()]
            for request, completion in zip(requests, engine.generate(requests), strict=True):
                reference.check_logprobs(request.messages, completion, 1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_says_about_the_same(tiny_checkpoint: Path, dtype: str) -> None:
    reference = Reference(tiny_checkpoint)
    with Engine.load(tiny_checkpoint, dtype=dtype, device="cuda") as engine:  # type: ignore[arg-type]
        for messages in conversations():
            reference.check_logprobs(messages, ask(engine, messages, max_tokens=8, logprobs=0), 0.1)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_low_bit_answers(checkpoint: Path, quantization: str) -> None:
    with Engine.load(checkpoint, quantization=quantization, device="cuda") as engine:  # type: ignore[arg-type]
        requests = [Request(messages, Sampling(max_tokens=8)) for messages in conversations()]
        assert all(completion.completion_tokens == 8 for completion in engine.generate(requests))
